//! The API as a program sees it: over a real socket, with workers that are threads of the test
//! and no kernel side. `running` runs the control and `lab` its workers; the tests are by
//! subject.

mod access;
mod drain;
mod events;
mod lab;
mod listings;
mod reload;
mod requests;
mod running;
mod servers;
mod services;
mod sessions;
mod status;
