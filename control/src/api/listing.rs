//! Answers that list everything there is: made and sent part by part, so that neither the core's lock nor the
//! memory is held for all of it at once. What is listed are the services as they were when it was asked for;
//! the numbers of each are those of the moment when its part is made.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use futures_util::stream::unfold;
use serde::Serialize;
use shunt_service::ServiceKey;

use crate::config::Config;
use crate::runtime::shared::Shared;
use crate::snapshot::{Retired, Services};

use super::{show, types};

/// A part has so many bytes, and what its last service makes it longer.
const PART: usize = 256 << 10;

/// A listing under way.
struct Listing<T> {
    core: Shared,
    config: Arc<Config>,
    services: Arc<Services>,
    /// Removed servers of services that were not yet listed, or are gone.
    removed: HashMap<ServiceKey, Vec<Retired>>,
    /// The service that comes next; `None` when the end was sent.
    next: Option<usize>,
    /// Whether something was listed.
    begun: bool,
    /// What is listed of a service.
    of: fn(types::Service) -> Vec<T>,
    /// What is listed at the end of a removed server whose service is gone.
    left: fn(types::Server) -> Option<T>,
}

/// A JSON array of what `of` makes of every service, and then `left` of removed servers whose service is gone.
pub(super) fn answer<T: Serialize + 'static>(
    core: Shared,
    of: fn(types::Service) -> Vec<T>,
    left: fn(types::Server) -> Option<T>,
) -> Response {
    let (config, services, removed) = {
        let core = core.lock();
        let services = Arc::clone(&core.director.snapshot().services);
        let config = Arc::clone(core.director.config());
        (config, services, show::removed(&core))
    };
    let listing = Listing {
        core,
        config,
        services,
        removed,
        next: Some(0),
        begun: false,
        of,
        left,
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
        while let Some(at) = self.next
            && text.len() < PART
        {
            let place = (self.config.services.get(at), self.services.list().get(at));
            let items = match place {
                (Some(configured), Some(known)) => {
                    self.next = Some(at + 1);
                    let gone = self.removed.remove(&configured.key).unwrap_or_default();
                    (self.of)(show::service(&core, configured, known, &gone))
                }
                _ => {
                    self.next = None;
                    let mut gone: Vec<_> = self.removed.drain().flat_map(|(_, s)| s).collect();
                    gone.sort_by_key(|retired| retired.server.id);
                    let gone = gone.iter().map(|r| show::removed_server(&core, r));
                    gone.filter_map(self.left).collect()
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
