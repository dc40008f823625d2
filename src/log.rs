//! Logging to standard error: lines for a person, or one JSON object a line.
//!
//! The fields of an event are for machines: a line has the message alone. What is logged is what
//! this program says, never the environment, so that no secret of the command gets into it.

use crate::container;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::Value;
use std::{
    fmt,
    io::{self, Write},
    os::fd::AsFd,
    sync::atomic::{AtomicBool, Ordering},
    time::SystemTime,
};
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    filter::Targets,
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    layer::SubscriberExt,
    registry::LookupSpan,
    util::SubscriberInitExt,
};

/// A correlation id is a name; what is longer is cut.
const CORRELATION_ID_LIMIT: usize = 128;

/// `--log-format`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `egress-init: message`.
    #[default]
    Text,
    /// One object a line: docs/logging.md lists its fields.
    Json,
}

/// What is let through where nothing says otherwise.
#[must_use]
pub fn default_filter() -> Targets {
    Targets::new().with_target("egress_init", Level::INFO)
}

/// The value of `--log-level` or of a variable: a level for this crate, or directives as
/// `RUST_LOG` has them.
///
/// # Errors
/// What is wrong with it, for the message that names where it came from.
pub fn parse_filter(filter: &str) -> Result<Targets, String> {
    let own = |level: Level| Targets::new().with_target("egress_init", level);
    if let Ok(level) = filter.parse::<Level>() {
        return Ok(own(level));
    }
    let targets = filter.contains('=').then(|| filter.parse::<Targets>());
    let Some(Ok(targets)) = targets else {
        return Err(format!(
            "`{filter}` is not one of error, warn, info, debug, trace"
        ));
    };
    // Errors are the interface: no filter silences them.
    if targets.would_enable("egress_init", &Level::ERROR) {
        Ok(targets)
    } else {
        Ok(targets.with_target("egress_init", Level::ERROR))
    }
}

/// Starts logging. Once per process; a second call has no effect. `correlation_id` is what
/// `EGRESS_INIT_CORRELATION_ID` says, if it says anything; else it is the container's id.
pub fn start(format: Format, filter: Targets, correlation_id: Option<String>) {
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(|| Output);
    // Fails only where logging has started already.
    let _ = match format {
        Format::Text => registry.with(layer.event_format(Line)).try_init(),
        Format::Json => {
            let object = Object {
                correlation_id: correlation_id
                    .map(|id| id.chars().take(CORRELATION_ID_LIMIT).collect())
                    .or_else(container::id),
            };
            registry.with(layer.event_format(object)).try_init()
        }
    };
}

/// From now on a line that cannot be written soon is lost. For a process that others depend on:
/// standard error is the command's too, which can fill a pipe that is read slowly, or not at all,
/// and a terminal can be told to hold on (Ctrl-S). No signal would be passed on meanwhile and no
/// query answered.
pub fn never_wait() {
    IN_A_HURRY.store(true, Ordering::Relaxed);
}

static IN_A_HURRY: AtomicBool = AtomicBool::new(false);
/// Whether the last line was lost. Then the next one is not waited for.
static IN_VAIN: AtomicBool = AtomicBool::new(false);
/// In milliseconds: a reader that is alive makes room sooner.
const PATIENCE: u8 = 100;
/// What a pipe that has room takes at once: `PIPE_BUF` in pipe(7).
const AT_ONCE: usize = 4096;

/// Standard error.
struct Output;

impl Output {
    /// Whether it takes more; what cannot be found out is tried.
    fn has_room(wait: u8) -> bool {
        let error = io::stderr();
        let mut ready = [PollFd::new(error.as_fd(), PollFlags::POLLOUT)];
        poll(&mut ready, PollTimeout::from(wait)) != Ok(0)
    }
}

impl Write for Output {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        if !IN_A_HURRY.load(Ordering::Relaxed) {
            return io::stderr().write(octets);
        }
        let wait = if IN_VAIN.load(Ordering::Relaxed) {
            0
        } else {
            PATIENCE
        };
        let has_room = Self::has_room(wait);
        IN_VAIN.store(!has_room, Ordering::Relaxed);
        if has_room {
            io::stderr().write(&octets[..octets.len().min(AT_ONCE)])
        } else {
            Ok(octets.len())
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `egress-init: message`, with the level where it is not the usual one.
struct Line;

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let Fields { message, .. } = Fields::of(event);
        write!(writer, "egress-init: {}", level_word(event.metadata()))?;
        for character in message.chars() {
            // A list or a record may hold what a terminal would obey.
            if character.is_control() {
                write!(writer, "{}", character.escape_default())?;
            } else {
                writer.write_char(character)?;
            }
        }
        writeln!(writer)
    }
}

fn level_word(metadata: &Metadata<'_>) -> &'static str {
    match *metadata.level() {
        // An error is the last line of a start that failed; it needs no label.
        Level::ERROR | Level::INFO => "",
        Level::WARN => "warning: ",
        Level::DEBUG => "debug: ",
        Level::TRACE => "trace: ",
    }
}

/// `timestamp`, `level`, `message`, `correlation_id` where there is one, then the event's fields.
struct Object {
    correlation_id: Option<String>,
}

impl<S, N> FormatEvent<S, N> for Object
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let fields = Fields::of(event);
        let timestamp = humantime::format_rfc3339_micros(SystemTime::now()).to_string();
        let level = event.metadata().level().as_str().to_ascii_lowercase();
        let mut members = vec![
            ("timestamp", Value::from(timestamp)),
            ("level", level.into()),
            ("message", fields.message.into()),
        ];
        members.extend(
            self.correlation_id
                .clone()
                .map(|id| ("correlation_id", id.into())),
        );
        members.extend(fields.others);
        for (index, (name, value)) in members.iter().enumerate() {
            let before = if index == 0 { '{' } else { ',' };
            write!(writer, "{before}\"{name}\":{value}")?;
        }
        writeln!(writer, "}}")
    }
}

/// What an event carries.
#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, Value)>,
}

impl Fields {
    fn of(event: &Event<'_>) -> Self {
        let mut fields = Self::default();
        event.record(&mut fields);
        fields
    }

    fn add(&mut self, field: &Field, value: impl Into<Value>) {
        self.others.push((field.name(), value.into()));
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" {
            self.message = text;
        } else {
            self.add(field, text);
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::{Arc, Mutex};
    use tracing_subscriber::fmt::MakeWriter;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(octets)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Buffer {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    fn logged(format: impl for<'a> Fn(&'a Buffer) -> tracing::Dispatch, log: impl Fn()) -> String {
        let buffer = Buffer::default();
        tracing::dispatcher::with_default(&format(&buffer), log);
        let octets = buffer.0.lock().unwrap().clone();
        String::from_utf8(octets).unwrap()
    }

    fn line(buffer: &Buffer) -> tracing::Dispatch {
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(buffer.clone())
            .event_format(Line);
        tracing_subscriber::registry().with(layer).into()
    }

    fn object(buffer: &Buffer) -> tracing::Dispatch {
        let object = Object {
            correlation_id: Some("job \"7\"\n".into()),
        };
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(buffer.clone())
            .event_format(object);
        tracing_subscriber::registry().with(layer).into()
    }

    fn ready() {
        tracing::info!(event = "ready", names = 12_u64, ms = 4.1, dns = %"pinned", "firewall ready");
        tracing::warn!("a \"quoted\"\u{1b} word");
    }

    #[test]
    fn a_line_has_the_message_alone() {
        assert_eq!(
            logged(line, ready),
            "egress-init: firewall ready\negress-init: warning: a \"quoted\"\\u{1b} word\n"
        );
    }

    #[test]
    fn an_object_has_the_documented_fields_in_order() {
        let text = logged(object, ready);
        let lines: Vec<&str> = text.lines().collect();
        let rest = lines[0].split_once(",\"level\"").unwrap().1;
        assert_eq!(
            rest,
            ":\"info\",\"message\":\"firewall ready\",\"correlation_id\":\"job \\\"7\\\"\\n\",\
             \"event\":\"ready\",\"names\":12,\"ms\":4.1,\"dns\":\"pinned\"}"
        );
        assert_eq!(lines.len(), 2);
        let warning: Value = serde_json::from_str(lines[1]).unwrap();
        assert_eq!(warning["level"], "warn");
        assert_eq!(warning["message"], "a \"quoted\"\u{1b} word");
        humantime::parse_rfc3339(warning["timestamp"].as_str().unwrap()).unwrap();
    }
}
