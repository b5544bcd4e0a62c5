//! Blocking work of handlers, such as reads from disk, on threads of its own.

use axum::http::StatusCode;

use crate::admin::http::problem::Problem;

/// Runs `work` on a thread where it may block, so that no other request waits for it.
///
/// # Errors
///
/// Returns the problem of `work`, or 500 if it panicked.
pub(crate) async fn run<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    let ended = tokio::task::spawn_blocking(work).await;
    ended.unwrap_or_else(|_| {
        Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "reading the data directory did not end"))
    })
}
