//! The API as a program sees it: over a real socket, with workers that are threads of the test
//! and no kernel side. `lab` starts it all; the tests are by subject.

mod access;
mod drain;
mod events;
mod lab;
mod listings;
mod reload;
mod requests;
mod servers;
mod services;
mod sessions;
mod status;
