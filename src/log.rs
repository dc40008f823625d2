//! Logging to standard error: lines for a person, or one JSON object a line.

use std::{fmt, io};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::{
    filter::Targets,
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    layer::SubscriberExt,
    registry::LookupSpan,
    util::SubscriberInitExt,
};

/// `--log-format`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `egress-init: message`.
    #[default]
    Text,
    /// One object a line: `timestamp`, `level`, `message` and the fields of the event.
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

/// Starts logging. Once per process; a second call has no effect.
pub fn start(format: Format, filter: Targets) {
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    // Fails only where logging has started already.
    let _ = match format {
        Format::Text => registry.with(layer.event_format(Line)).try_init(),
        Format::Json => registry
            .with(layer.json().flatten_event(true).with_target(false))
            .try_init(),
    };
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
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        write!(writer, "egress-init: {}", level_word(event.metadata()))?;
        context.format_fields(writer.by_ref(), event)?;
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
