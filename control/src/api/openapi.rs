//! `/openapi.json`: the API's description, made from the handlers and the types.

use axum::Json;
use utoipa::OpenApi;

use super::{drains, events, servers, services, sessions, status, templates, transactions};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Shunt",
        description = "The director's API; docs/api.md is its manual."
    ),
    paths(
        status::status,
        status::counters,
        status::interfaces,
        status::route,
        status::reload,
        status::log,
        events::events,
        templates::list,
        templates::timeouts,
        templates::change_timeouts,
        status::set_log,
        transactions::plan,
        transactions::apply,
        transactions::confirm,
        transactions::rollback,
        transactions::history,
        transactions::configuration,
        transactions::save,
        sessions::list,
        services::list,
        services::show,
        services::add,
        services::put,
        services::change,
        services::zero,
        services::zero_all,
        services::remove,
        servers::all,
        servers::list,
        servers::show,
        servers::add,
        servers::put,
        servers::change,
        servers::remove,
        servers::set_status,
        drains::list,
        drains::show,
        drains::put,
        drains::cancel,
    )
)]
struct Description;

/// The description.
pub(super) async fn openapi() -> Json<utoipa::openapi::OpenApi> {
    Json(Description::openapi())
}
