//! The daemon's log: where it goes and in which form, what is logged, and how often the same is said.
//!
//! One place that says something again and again (a device that lies about every packet, a disk that is
//! full) is heard [`MOST`] times in [`WINDOW`], and then how often it was held back.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use shunt_control::runtime::{HeldBack, LogLevels};
use tracing::callsite::Identifier;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Filter, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

/// So often one place is heard in a [`WINDOW`].
const MOST: u32 = 20;
const WINDOW: Duration = Duration::from_secs(10);

/// The form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// The journal's own where standard error goes there, else text.
    Auto,
    /// Lines for people.
    Text,
    /// A JSON object a line.
    Json,
    /// systemd's journal, with fields.
    Journal,
}

type Filtered = reload::Handle<EnvFilter, Registry>;

/// Starts to log. What of `filter` is wrong is the error.
pub(crate) fn start(filter: &str, format: Format) -> Result<Levels, String> {
    let parsed = EnvFilter::try_new(filter).map_err(|error| error.to_string())?;
    let (levels, handle) = reload::Layer::new(parsed);
    let repeated = Repeated::default();
    let output = output(format)?.with_filter(repeated.clone());
    tracing_subscriber::registry()
        .with(levels)
        .with(output)
        .try_init()
        .map_err(|error| error.to_string())?;
    Ok(Levels {
        filter: filter.to_owned(),
        handle,
        repeated,
    })
}

type Boxed<S> = Box<dyn Layer<S> + Send + Sync>;

fn output<S>(format: Format) -> Result<Boxed<S>, String>
where
    S: Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    let text = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    Ok(match format {
        Format::Journal => Box::new(tracing_journald::layer().map_err(|error| {
            format!("there is no journal on this machine: {error}; --log-format text")
        })?),
        Format::Auto if is_journal() => match tracing_journald::layer() {
            Ok(journal) => Box::new(journal),
            Err(_) => Box::new(text.with_ansi(false)),
        },
        Format::Json => Box::new(text.json().flatten_event(true)),
        Format::Auto | Format::Text => {
            // Colours are for eyes, not for journals and files (https://no-color.org).
            let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            Box::new(text.with_ansi(colours))
        }
    })
}

/// Whether standard error is the journal's: systemd says which device and inode that has (systemd.exec(5)).
fn is_journal() -> bool {
    let said = std::env::var("JOURNAL_STREAM").ok();
    let Some((device, inode)) = said.as_deref().and_then(|s| s.split_once(':')) else {
        return false;
    };
    let Ok(stderr) = std::io::stderr().as_fd().try_clone_to_owned() else {
        return false;
    };
    let meta = std::fs::File::from(stderr).metadata();
    meta.is_ok_and(|m| m.dev().to_string() == device && m.ino().to_string() == inode)
}

/// What is logged, for control to change.
pub(crate) struct Levels {
    filter: String,
    handle: Filtered,
    repeated: Repeated,
}

impl LogLevels for Levels {
    fn filter(&self) -> &str {
        &self.filter
    }

    fn set_filter(&mut self, filter: &str) -> Result<(), String> {
        let parsed = EnvFilter::try_new(filter).map_err(|error| error.to_string())?;
        self.handle
            .reload(parsed)
            .map_err(|error| error.to_string())?;
        filter.clone_into(&mut self.filter);
        Ok(())
    }

    fn take_held_back(&mut self) -> Vec<HeldBack> {
        self.repeated.take(Instant::now())
    }
}

/// How often a place was heard lately.
struct Place {
    since: Instant,
    heard: u32,
    held_back: u64,
    name: &'static str,
}

/// The filter that holds back what repeats itself.
#[derive(Clone, Default)]
struct Repeated(Arc<Mutex<HashMap<Identifier, Place>>>);

impl Repeated {
    fn hears(&self, metadata: &'static Metadata<'static>, now: Instant) -> bool {
        // As many places as the program has.
        let mut places = self.0.lock();
        let place = places.entry(metadata.callsite()).or_insert_with(|| Place {
            since: now,
            heard: 0,
            held_back: 0,
            name: metadata.target(),
        });
        if now.duration_since(place.since) >= WINDOW {
            (place.since, place.heard) = (now, 0);
        }
        if place.heard < MOST {
            place.heard += 1;
            return true;
        }
        place.held_back += 1;
        false
    }

    /// What was held back in windows that are over.
    fn take(&self, now: Instant) -> Vec<HeldBack> {
        let mut places = self.0.lock();
        let over = places
            .values_mut()
            .filter(|p| p.held_back > 0 && now.duration_since(p.since) >= WINDOW);
        over.map(|place| HeldBack {
            place: place.name,
            times: core::mem::take(&mut place.held_back),
        })
        .collect()
    }
}

impl<S> Filter<S> for Repeated {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        self.hears(event.metadata(), Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_repeats_itself_is_held_back_and_counted() {
        let repeated = Repeated::default();
        let (a, b) = (
            tracing::callsite!(name: "a", kind: tracing::metadata::Kind::EVENT, fields: ),
            tracing::callsite!(name: "b", kind: tracing::metadata::Kind::EVENT, fields: ),
        );
        use tracing::Callsite;
        let now = Instant::now();
        let heard = (0..100)
            .filter(|_| repeated.hears(a.metadata(), now))
            .count();
        assert_eq!(heard, MOST as usize);
        assert!(repeated.hears(b.metadata(), now), "another place");
        assert!(repeated.take(now).is_empty(), "its window is not over");
        let later = now + WINDOW;
        let told = repeated.take(later);
        assert_eq!(told.iter().map(|t| t.times).collect::<Vec<_>>(), [80]);
        assert!(repeated.take(later).is_empty(), "told once");
        assert!(repeated.hears(a.metadata(), later), "heard again");
    }
}
