//! Faults as RFC 9457 problem details.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::config::Violation;
use crate::control::WriteError;

/// Why a request failed.
#[derive(Debug, Serialize)]
pub struct Problem {
    #[serde(rename = "type")]
    kind: &'static str,
    title: String,
    status: u16,
    detail: String,
    violations: Vec<Violation>,
}

impl Problem {
    /// A problem of this status, with what to know about it.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            violations: Vec::new(),
        }
    }

    /// 404
    pub fn not_found(detail: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// 405
    pub fn method_not_allowed() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "this path knows other methods; `Allow` names them")
    }

    /// The same with every fault that was found.
    pub fn with(self, violations: Vec<Violation>) -> Self {
        let detail = match violations.as_slice() {
            [only] => only.message.clone(),
            several => format!("{} ({} faults)", self.detail, several.len()),
        };
        Self { detail, violations, ..self }
    }

    /// The same with its violations at other places.
    pub fn relocated(self, relocate: impl Fn(Violation) -> Violation) -> Self {
        Self { violations: self.violations.into_iter().map(relocate).collect(), ..self }
    }

    /// True when the config as a whole was at fault.
    pub fn is_refusal(&self) -> bool {
        self.status == StatusCode::UNPROCESSABLE_ENTITY.as_u16()
    }

    /// The same problem with another status.
    pub fn as_status(self, status: StatusCode, detail: &str) -> Self {
        Self { violations: self.violations, ..Self::new(status, detail) }
    }
}

impl From<WriteError> for Problem {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Refused(violations) => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "the config would not make sense")
                    .with(violations)
            }
            WriteError::Store(_) => {
                Self::new(StatusCode::INSUFFICIENT_STORAGE, "the change could not be stored")
            }
            WriteError::ShuttingDown => Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).expect("it was a status before");
        let mut response = (status, axum::Json(self)).into_response();
        let problem = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, problem);
        response
    }
}
