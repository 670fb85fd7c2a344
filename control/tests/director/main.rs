//! The director under changes: identities, list order, slots, schedulers, and what a refused
//! change leaves behind. `model` drives it and a plain model with the same random operations; the
//! other tests are by subject.

mod changes;
mod health;
mod identities;
mod model;
mod removed;
mod tools;
