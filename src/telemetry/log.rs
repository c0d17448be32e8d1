//! The structured log of the sidecar itself: to standard error, as JSON or text, with a level that can be changed
//! while it runs.

use std::{
    fmt,
    io::{self, Write},
    sync::{Mutex, PoisonError},
};

use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::LevelFilter,
    fmt::MakeWriter,
    layer::{Layered, SubscriberExt},
    reload,
    util::{SubscriberInitExt, TryInitError},
};

use super::{LogFormat, LogParams};

/// Target of lines that no level silences: who changed what.
pub const AUDIT: &str = "outrigger::audit";

/// The crate of the replicated log.
const CHATTY: &str = "openraft";

/// Why the log is not as somebody wanted it.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Neither a level nor a list of directives.
    #[error(
        "`{0}` is no log level: expected error, warn, info, debug, trace or directives as in `info,outrigger::proxy=debug`"
    )]
    Level(String),
    /// The process has a log already.
    #[error("the log was already set up")]
    AlreadySet(#[source] TryInitError),
    /// The log was torn down.
    #[error("the log is gone")]
    Gone,
}

/// Changes the level of the running log.
pub struct LogHandle {
    filter: reload::Handle<EnvFilter, Registry>,
    /// Also makes sure that level and text change together.
    level: Mutex<String>,
}

/// Starts the log of the process.
///
/// # Errors
/// `level` cannot be read, or the process has a log. Nothing has changed then.
pub fn init(params: &LogParams) -> Result<LogHandle, LogError> {
    let (subscriber, handle) = build(params, io::stderr)?;
    subscriber.try_init().map_err(LogError::AlreadySet)?;
    Ok(handle)
}

type Built = Layered<Box<dyn Layer<Filtered> + Send + Sync>, Filtered>;
type Filtered = Layered<reload::Layer<EnvFilter, Registry>, Registry>;

fn build<W, F>(params: &LogParams, make: F) -> Result<(Built, LogHandle), LogError>
where
    W: Write,
    F: Fn() -> W + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(parse(&params.level)?);
    let writer = OneLine(make);
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(writer);
    let lines = match params.format {
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).boxed(),
        LogFormat::Text => lines.boxed(),
    };
    let subscriber = tracing_subscriber::registry().with(filter).with(lines);
    Ok((subscriber, LogHandle { filter: handle, level: Mutex::new(params.level.clone()) }))
}

/// Whether `level` can be given to [`LogHandle::set`].
///
/// # Errors
/// [`LogError::Level`] if not.
pub fn validate(level: &str) -> Result<(), LogError> {
    parse(level).map(drop)
}

fn parse(level: &str) -> Result<EnvFilter, LogError> {
    let wrong = || LogError::Level(level.to_owned());
    // A bare word that is no level would be taken for the name of a module, and silence everything else.
    for directive in level.split(',') {
        let last = directive.rsplit('=').next().unwrap_or(directive).trim();
        // The parser also takes numbers, and nothing at all for `error`.
        let word = last.starts_with(|first: char| first.is_ascii_alphabetic());
        if !word || last.parse::<LevelFilter>().is_err() {
            return Err(wrong());
        }
    }
    // It tells each message that it gets as news. Whoever wants to know names it.
    let quiet = if level.contains(CHATTY) { String::new() } else { format!(",{CHATTY}=error") };
    let audited = format!("{level},{AUDIT}=info{quiet}");
    EnvFilter::builder().parse(audited).map_err(|_| wrong())
}

impl LogHandle {
    /// Changes the level, or the directives; takes effect at once.
    ///
    /// # Errors
    /// `level` cannot be read. The old one stays.
    pub fn set(&self, level: &str) -> Result<(), LogError> {
        let filter = parse(level)?;
        let mut current = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        self.filter.reload(filter).map_err(|_| LogError::Gone)?;
        level.clone_into(&mut current);
        Ok(())
    }

    /// What was set last.
    #[must_use]
    pub fn level(&self) -> String {
        self.level.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for LogHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogHandle").field("level", &self.level()).finish_non_exhaustive()
    }
}

/// Makes writers that keep an event on its one line.
struct OneLine<F>(F);

impl<'a, W: Write, F: Fn() -> W> MakeWriter<'a> for OneLine<F> {
    type Writer = OneLineWriter<W>;

    fn make_writer(&'a self) -> OneLineWriter<W> {
        OneLineWriter((self.0)())
    }
}

/// Gets an event as one piece and escapes the control characters inside it: a peer's error message must neither
/// start a line of its own nor talk to the terminal.
struct OneLineWriter<W>(W);

impl<W: Write> Write for OneLineWriter<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let body = text.strip_suffix('\n').unwrap_or(&text);
        if body.chars().any(char::is_control) {
            let mut clean = String::with_capacity(text.len() + 16);
            for character in body.chars() {
                if character.is_control() {
                    clean.extend(character.escape_default());
                } else {
                    clean.push(character);
                }
            }
            clean.push('\n');
            self.0.write_all(clean.as_bytes())?;
        } else {
            self.0.write_all(event)?;
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tracing::{debug, info, subscriber::with_default};

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, act: impl FnOnce(&LogHandle)) -> String {
        let kept = Kept::default();
        let sink = kept.clone();
        let params = LogParams { level: "info".into(), format };
        let (subscriber, handle) = build(&params, move || sink.clone()).unwrap();
        with_default(subscriber, || act(&handle));
        String::from_utf8(kept.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn the_level_can_be_changed_while_it_runs() {
        let text = logged(LogFormat::Text, |handle| {
            debug!("one");
            handle.set("debug").unwrap();
            debug!("two");
            assert!(handle.set("loud").is_err());
            assert_eq!(handle.level(), "debug");
            handle.set("info,outrigger::telemetry=error").unwrap();
            info!("three");
        });
        assert!(text.contains("two") && !text.contains("one") && !text.contains("three"), "{text}");
    }

    #[test]
    fn no_level_silences_the_audit_log() {
        let text = logged(LogFormat::Text, |handle| {
            for level in ["off", "outrigger::audit=off", "error,outrigger=off"] {
                handle.set(level).unwrap();
                info!(target: AUDIT, level, "a change");
                info!("something else");
            }
            assert_eq!(handle.level(), "error,outrigger=off");
        });
        assert_eq!((text.matches("a change").count(), text.contains("something else")), (3, false), "{text}");
    }

    #[test]
    fn what_a_peer_sent_stays_on_its_line() {
        let hostile = "x\nINFO forged \u{1b}[31m\u{9b}31m";
        let text = logged(LogFormat::Text, |_| info!(peer = %hostile, "{hostile}"));
        assert_eq!(text.matches('\n').count(), 1);
        assert!(!text.trim_end().chars().any(char::is_control), "{text:?}");
    }

    #[test]
    fn a_json_event_is_one_object_with_its_fields_at_the_top() {
        let text = logged(LogFormat::Json, |_| info!(service = "shop", why = "a\n\"b\"", "changed"));
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&read["message"], &read["service"]), (&"changed".into(), &"shop".into()));
        assert_eq!(read["why"], "a\n\"b\"");
    }

    #[test]
    fn words_that_are_no_level_are_refused() {
        for good in ["info", "WARN", "off", "info,outrigger::proxy=debug", "outrigger=trace,hyper=warn"] {
            assert!(validate(good).is_ok(), "{good}");
        }
        for bad in ["", "loud", "info,", "outrigger::proxy", "3", "info,outrigger=loud", "=", "info debug"] {
            assert!(validate(bad).is_err(), "{bad}");
        }
    }
}
