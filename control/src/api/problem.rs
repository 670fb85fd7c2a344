//! Errors of the API: RFC 9457 problem details with a code for programs and a sentence for
//! people.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::config::{CannotSave, LoadError, Mistake, Place};
use crate::director::CannotApply;
use crate::runtime::transactions::CannotChange;
use crate::snapshot::CannotBuild;

use super::types;

/// Most mistakes that are told of a body.
const TOLD: usize = 100;

/// A refused or failed request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem(pub(super) types::Problem);

impl Problem {
    /// An error without list of mistakes.
    pub(super) fn new(status: StatusCode, code: &str, detail: impl Into<String>) -> Self {
        Self(types::Problem {
            status: status.as_u16(),
            code: code.to_owned(),
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            detail: Some(detail.into()),
            errors: Vec::new(),
        })
    }

    /// Mistakes in a body.
    pub(super) fn mistakes(mistakes: &[Mistake]) -> Self {
        let told = mistakes.iter().take(TOLD);
        let errors: Vec<types::Mistake> = told.map(|m| mistake(m, None)).collect();
        let detail = match mistakes {
            [one] => one.what.clone(),
            several => format!("{} mistakes", several.len()),
        };
        let mut problem = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", detail);
        problem.0.errors = errors;
        problem
    }

    /// A service or server that is not there.
    pub(super) fn missing(code: &str, what: String) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, what)
    }
}

/// A mistake as the API tells it, with its line and column.
pub(crate) fn mistake(mistake: &Mistake, at: Option<(usize, usize)>) -> types::Mistake {
    types::Mistake {
        detail: mistake.what.clone(),
        help: mistake.help.clone(),
        pointer: match &mistake.place {
            Place::Pointer(pointer) => Some(pointer.clone()),
            Place::Span(..) | Place::InForce => None,
        },
        line: at.map(|(line, _)| line),
        column: at.map(|(_, column)| column),
    }
}

impl From<CannotBuild> for Problem {
    fn from(error: CannotBuild) -> Self {
        let code = match error {
            CannotBuild::NoSlot { .. } => "no-slot",
            CannotBuild::Scheduler { .. } => "scheduler",
        };
        Self::new(StatusCode::CONFLICT, code, error.to_string())
    }
}

impl From<CannotApply> for Problem {
    fn from(error: CannotApply) -> Self {
        match error {
            CannotApply::NeedsRestart(_) => {
                Self::new(StatusCode::CONFLICT, "needs-restart", error.to_string())
            }
            CannotApply::Build(error) => error.into(),
        }
    }
}

impl From<CannotChange> for Problem {
    fn from(error: CannotChange) -> Self {
        let detail = error.to_string();
        let (status, code) = match error {
            CannotChange::Load(error) => return error.into(),
            CannotChange::Apply(error) => return error.into(),
            CannotChange::NoFile => (StatusCode::CONFLICT, "no-file"),
            CannotChange::Shrinks(_) => (StatusCode::CONFLICT, "shrinks"),
            CannotChange::Pending { .. } => (StatusCode::CONFLICT, "unconfirmed"),
            CannotChange::NothingPending => (StatusCode::CONFLICT, "nothing-to-confirm"),
            CannotChange::NoGeneration(_) => (StatusCode::NOT_FOUND, "no-such-generation"),
            CannotChange::NothingBefore => (StatusCode::CONFLICT, "nothing-before"),
        };
        Self::new(status, code, detail)
    }
}

impl From<CannotSave> for Problem {
    fn from(error: CannotSave) -> Self {
        Self::new(StatusCode::CONFLICT, "cannot-save", error.to_string())
    }
}

impl From<LoadError> for Problem {
    fn from(error: LoadError) -> Self {
        let detail = error.to_string();
        match error {
            LoadError::Read { .. } | LoadError::TooLong { .. } | LoadError::NotText { .. } => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "unreadable", detail)
            }
            LoadError::Invalid(invalid) => {
                let errors = invalid.located().map(|(at, m)| mistake(m, at)).collect();
                let mut problem = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", detail);
                problem.0.errors = errors;
                problem
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self.0).unwrap_or_default();
        (
            status,
            [(header::CONTENT_TYPE, "application/problem+json")],
            body,
        )
            .into_response()
    }
}
