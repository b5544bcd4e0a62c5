//! Problem details (RFC 9457): the body of every failed request.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;

use crate::config::cap::capped;
use crate::config::{Level, Path, Violation, code};
use crate::control::operation::WriteError;
use crate::store;

/// Maximum size of a plain text of the framework, in bytes.
const MAX_TEXT: usize = 16 << 10;

/// Reason of a failure (RFC 9457).
#[derive(Debug, Serialize, JsonSchema)]
pub struct Problem {
    /// Always `about:blank`.
    #[serde(rename = "type")]
    kind: &'static str,
    /// Phrase of the status.
    title: String,
    /// Status of the response.
    status: u16,
    /// Description of the failure, and of what would be right.
    detail: String,
    /// Faults that were found, each with its place.
    violations: Vec<Violation>,
    /// Seconds after which the client may try again, in the header `Retry-After`.
    #[serde(skip)]
    retry_after: Option<u32>,
}

impl Problem {
    /// Creates a problem of this status.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            violations: Vec::new(),
            retry_after: None,
        }
    }

    /// Returns 503; the client may try again after a second.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self { retry_after: Some(1), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, detail) }
    }

    /// Returns 422 for faults of the body. Each has its place; a single one becomes the detail.
    pub fn refused(detail: &str, violations: Vec<Violation>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail).with(violations)
    }

    /// Returns 422 for a value of the body at this path that is not accepted.
    pub fn unprocessable(path: &Path, message: impl Into<String>) -> Self {
        let violation = Violation {
            code: code::WRONG_VALUE,
            level: Level::Error,
            message: message.into(),
            help: None,
            file: None,
            line: None,
            column: None,
            path: path.to_string(),
            pointer: Some(path.pointer()),
            related: Vec::new(),
        };
        Self::refused("the body has a fault", vec![violation])
    }

    /// Returns 404.
    pub fn not_found(detail: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// Returns 405.
    pub fn method_not_allowed() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "this path knows other methods; `Allow` names them")
    }

    /// Returns 428.
    pub fn precondition_required() -> Self {
        let detail = "say with `If-Match` which version you change; a GET gives its `ETag`";
        Self::new(StatusCode::PRECONDITION_REQUIRED, detail)
    }

    /// Returns the faults that were found.
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// Prefixes the detail with one of several changes.
    pub fn of(self, which: &str) -> Self {
        Self { detail: format!("{which}: {}", self.detail), ..self }
    }

    /// Adds faults. A single one becomes the detail; several are counted there.
    pub fn with(self, violations: Vec<Violation>) -> Self {
        let detail = match violations.as_slice() {
            [only] => only.message.clone(),
            several => format!("{} ({} faults)", self.detail, several.len()),
        };
        Self { detail, violations, ..self }
    }

    /// Prefixes the pointers of the faults: the body is the part of a larger one at this pointer.
    pub fn below(self, prefix: &str) -> Self {
        self.relocated(|violation| {
            let pointer = violation.pointer.map(|pointer| format!("{prefix}{pointer}"));
            Violation { pointer, ..violation }
        })
    }

    /// Changes the places of the faults.
    pub fn relocated(self, relocate: impl Fn(Violation) -> Violation) -> Self {
        Self { violations: self.violations.into_iter().map(relocate).collect(), ..self }
    }

    /// True if it has this status.
    pub fn is_of(&self, status: StatusCode) -> bool {
        self.status == status.as_u16()
    }

    /// Returns the faults with another status and detail.
    pub fn as_status(self, status: StatusCode, detail: &str) -> Self {
        Self { violations: self.violations, ..Self::new(status, detail) }
    }
}

impl Problem {
    /// Converts a refusal of the framework, which is plain text, to a problem. Other responses stay as they are.
    pub(crate) async fn of_any(response: Response) -> Response {
        let is_text = |kind: &HeaderValue| kind.as_bytes().starts_with(b"text/plain");
        let status = response.status();
        let is_fault = status.is_client_error() || status.is_server_error();
        if !is_fault || !response.headers().get(header::CONTENT_TYPE).is_some_and(is_text) {
            return response;
        }
        let (mut head, body) = response.into_parts();
        let text = axum::body::to_bytes(body, MAX_TEXT).await.unwrap_or_default();
        let problem = Self::new(status, String::from_utf8_lossy(&text)).into_response();
        head.headers.remove(header::CONTENT_LENGTH);
        head.headers.extend(problem.headers().clone());
        Response::from_parts(head, problem.into_body())
    }

    /// Returns 507, with all causes of the failure.
    pub(crate) fn unstored(error: &store::Error) -> Self {
        let causes = std::iter::successors(Some(error as &dyn std::error::Error), |it| it.source());
        let causes: Vec<String> = causes.map(ToString::to_string).collect();
        let detail = format!("the change could not be stored: {}", causes.join(": "));
        Self::new(StatusCode::INSUFFICIENT_STORAGE, detail)
    }
}

impl From<store::Error> for Problem {
    fn from(error: store::Error) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }
}

impl From<WriteError> for Problem {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Refused(violations) => Self::refused("the config would not make sense", violations),
            WriteError::Store(error) => Self::unstored(&error),
            WriteError::Reused => Self::unprocessable(&Path::default(), error.to_string()),
            WriteError::ShuttingDown | WriteError::Busy => Self::unavailable(error.to_string()),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).expect("it was a status before");
        let retry_after = self.retry_after;
        let problem = Self { violations: capped(self.violations), ..self };
        let mut response = (status, axum::Json(problem)).into_response();
        response.headers_mut().extend(retry_after.map(|seconds| (header::RETRY_AFTER, seconds.into())));
        let problem = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, problem);
        response
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::config::cap::MAX_SHOWN;
    use crate::config::document::Kind;
    use crate::config::tree::Node;
    use crate::config::{Level, Path, decode};

    #[tokio::test]
    async fn a_problem_of_many_faults_counts_all_and_shows_the_first() {
        let (document, _) = decode::parse_stored(Kind::Service, "s", Node::from_json(&Value::Null));
        let fault = || document.violation("US113", Level::Error, &Path::default(), "no".to_owned());
        let problem = Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "the config would not make sense");
        let response = problem.with((0..1_500).map(|_| fault()).collect()).into_response();
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.expect("it is whole");
        let body: Value = serde_json::from_slice(&body).expect("it is JSON");
        assert_eq!(body["detail"], "the config would not make sense (1500 faults)");
        let shown = body["violations"].as_array().expect("there are some");
        assert_eq!(shown.len(), MAX_SHOWN + 1);
        assert_eq!(shown[MAX_SHOWN]["message"], "500 more errors are not shown");
        assert_eq!(shown[MAX_SHOWN]["pointer"], "", "it has a place like the others");
    }
}
