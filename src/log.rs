//! Logging to standard error: lines for a person, or one JSON object a line.
//!
//! The fields of an event are for machines: a line has the message alone. What is logged is what
//! this program says, never the environment, so that no secret of the command gets into it.

use crate::container;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::Value;
use std::{
    fmt::{self, Write as _},
    io::{self, Write},
    os::fd::AsFd,
    sync::atomic::{AtomicBool, Ordering},
    time::SystemTime,
};
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
    span,
};
use tracing_subscriber::filter::Targets;

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
    let form = match format {
        Format::Text => Form::Line,
        Format::Json => Form::Object {
            correlation_id: correlation_id
                .map(|id| id.chars().take(CORRELATION_ID_LIMIT).collect())
                .or_else(container::id),
        },
    };
    let log = Log {
        filter,
        form,
        // Nobody may be listening, which changes nothing.
        write: |line: &str| drop(Output.write_all(line.as_bytes())),
    };
    // Fails only where logging has started already.
    let _ = tracing::subscriber::set_global_default(log);
}

/// What becomes of events. Nothing here has spans, and to be ready for those of others costs a
/// start more than its one line does.
struct Log<W> {
    filter: Targets,
    form: Form,
    write: W,
}

/// How an event is written.
enum Form {
    /// `egress-init: message`, with the level where it is not the usual one.
    Line,
    /// An object: `timestamp`, `level`, `message`, `correlation_id` where there is one, then the
    /// event's fields.
    Object { correlation_id: Option<String> },
}

impl<W: Fn(&str) + Send + Sync + 'static> Subscriber for Log<W> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event()
            && self
                .filter
                .would_enable(metadata.target(), metadata.level())
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        let levels = self.filter.iter().map(|(_, level)| level);
        levels.chain(self.filter.default_level()).max()
    }

    fn event(&self, event: &Event<'_>) {
        let fields = Fields::of(event);
        let mut line = String::with_capacity(fields.message.len() + 64);
        // Writing to a String cannot fail.
        let _ = match &self.form {
            Form::Line => write_line(&mut line, event.metadata(), &fields.message),
            Form::Object { correlation_id } => write_object(
                &mut line,
                event.metadata(),
                fields,
                correlation_id.as_deref(),
            ),
        };
        (self.write)(&line);
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
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

fn write_line(line: &mut String, metadata: &Metadata<'_>, message: &str) -> fmt::Result {
    write!(line, "egress-init: {}", level_word(metadata))?;
    for character in message.chars() {
        // A list or a record may hold what a terminal would obey.
        if character.is_control() {
            write!(line, "{}", character.escape_default())?;
        } else {
            line.push(character);
        }
    }
    line.push('\n');
    Ok(())
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

fn write_object(
    line: &mut String,
    metadata: &Metadata<'_>,
    fields: Fields,
    correlation_id: Option<&str>,
) -> fmt::Result {
    let timestamp = humantime::format_rfc3339_micros(SystemTime::now()).to_string();
    let level = metadata.level().as_str().to_ascii_lowercase();
    let mut members = vec![
        ("timestamp", Value::from(timestamp)),
        ("level", level.into()),
        ("message", fields.message.into()),
    ];
    members.extend(correlation_id.map(|id| ("correlation_id", id.into())));
    members.extend(fields.others);
    for (index, (name, value)) in members.iter().enumerate() {
        let before = if index == 0 { '{' } else { ',' };
        write!(line, "{before}\"{name}\":{value}")?;
    }
    line.push_str("}\n");
    Ok(())
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

    fn logged_as(form: Form, filter: Targets, log: impl Fn()) -> String {
        let lines = Arc::new(Mutex::new(String::new()));
        let into = Arc::clone(&lines);
        let subscriber = Log {
            filter,
            form,
            write: move |line: &str| into.lock().unwrap().push_str(line),
        };
        tracing::subscriber::with_default(subscriber, log);
        let lines = lines.lock().unwrap();
        lines.clone()
    }

    fn logged(form: Form, log: impl Fn()) -> String {
        logged_as(form, default_filter(), log)
    }

    fn ready() {
        tracing::info!(event = "ready", names = 12_u64, ms = 4.1, dns = %"pinned", "firewall ready");
        tracing::warn!("a \"quoted\"\u{1b} word");
    }

    #[test]
    fn a_line_has_the_message_alone() {
        assert_eq!(
            logged(Form::Line, ready),
            "egress-init: firewall ready\negress-init: warning: a \"quoted\"\\u{1b} word\n"
        );
    }

    #[test]
    fn an_object_has_the_documented_fields_in_order() {
        let object = Form::Object {
            correlation_id: Some("job \"7\"\n".into()),
        };
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

    #[test]
    fn what_the_filter_leaves_out_is_not_logged() {
        let events = || {
            tracing::debug!("of this crate");
            tracing::warn!(target: "hickory_proto", "of another one");
            let _span = tracing::error_span!("nobody looks at it").entered();
        };
        let lines = |filter: &str| {
            let filter = parse_filter(filter).unwrap();
            let text = logged_as(Form::Line, filter, events);
            text.lines().count()
        };
        assert_eq!(lines("info"), 0);
        assert_eq!(lines("debug"), 1);
        assert_eq!(lines("hickory_proto=warn"), 1);
        assert_eq!(lines("egress_init=debug,hickory_proto=warn"), 2);
        assert_eq!(lines("hickory_proto=error"), 0);
    }
}
