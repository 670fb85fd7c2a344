//! Answers that list everything there is: made and sent part by part, so that neither the core's lock nor the
//! memory is held for all of it at once. What is listed are the services as they were when it was asked for;
//! the numbers of each are those of the moment when its part is made.

use std::collections::HashSet;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use futures_util::stream::unfold;
use serde::Serialize;
use shunt_service::ServiceKey;

use crate::config::Config;
use crate::runtime::shared::{Core, Shared};
use crate::snapshot::Services;

use super::{show, types};

/// A part has so many bytes, and what its last service makes it longer.
const PART: usize = 256 << 10;

/// A listing under way.
struct Listing<T> {
    core: Shared,
    config: Arc<Config>,
    services: Arc<Services>,
    /// The service that comes next; `None` when the end was sent.
    next: Option<usize>,
    /// Whether something was listed.
    begun: bool,
    /// What is listed of a service.
    of: fn(types::Service) -> Vec<T>,
    /// What is listed at the end, after these services.
    rest: fn(&Core, &HashSet<ServiceKey>) -> Vec<T>,
}

/// A JSON array of what `of` makes of every service, and of the `rest`.
pub(super) fn answer<T: Serialize + 'static>(
    core: Shared,
    of: fn(types::Service) -> Vec<T>,
    rest: fn(&Core, &HashSet<ServiceKey>) -> Vec<T>,
) -> Response {
    let (config, services) = {
        let core = core.lock();
        let services = Arc::clone(&core.director.snapshot().services);
        (Arc::clone(core.director.config()), services)
    };
    let listing = Listing {
        core,
        config,
        services,
        next: Some(0),
        begun: false,
        of,
        rest,
    };
    let parts = unfold(listing, async |mut listing| {
        Some((listing.part()?, listing))
    });
    let kind = [(CONTENT_TYPE, "application/json")];
    (kind, Body::from_stream(parts)).into_response()
}

impl<T: Serialize> Listing<T> {
    /// The next part; `None` after the last.
    fn part(&mut self) -> Option<serde_json::Result<Bytes>> {
        self.next?;
        let core = Arc::clone(&self.core);
        let core = core.lock();
        let mut text = Vec::with_capacity(PART + PART / 2);
        let mut removed = show::removed(&core);
        while let Some(at) = self.next
            && text.len() < PART
        {
            let place = (self.config.services.get(at), self.services.list().get(at));
            let items = match place {
                (Some(configured), Some(known)) => {
                    self.next = Some(at + 1);
                    let gone = removed.remove(&configured.key).unwrap_or_default();
                    (self.of)(show::service(&core, configured, known, gone))
                }
                _ => {
                    self.next = None;
                    let listed = self.config.services.iter().map(|s| s.key).collect();
                    (self.rest)(&core, &listed)
                }
            };
            if let Err(error) = self.write(&items, &mut text) {
                self.next = None;
                return Some(Err(error));
            }
        }
        if self.next.is_none() {
            text.extend_from_slice(if self.begun { b"]" } else { b"[]" });
        }
        Some(Ok(text.into()))
    }

    fn write(&mut self, items: &[T], text: &mut Vec<u8>) -> serde_json::Result<()> {
        for item in items {
            text.push(if self.begun { b',' } else { b'[' });
            self.begun = true;
            serde_json::to_writer(&mut *text, item)?;
        }
        Ok(())
    }
}
