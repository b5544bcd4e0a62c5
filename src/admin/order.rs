//! Orders over the API: from a request to the supervisor, and from its refusal to a problem.

use axum::http::StatusCode;

use crate::admin::http::problem::Problem;
use crate::admin::http::request::Write;
use crate::admin::state::Admin;
use crate::config::Path;
use crate::config::values;
use crate::failover::orders::Orders;
use crate::failover::orders::decide::{OrderRefusal, Situation};
use crate::failover::orders::request::OrderRequest;
use crate::failover::orders::time::Timed;
use crate::failover::supervisor::error::Error;

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match error {
            Error::Refused(OrderRefusal::Unknown(detail)) => Self::not_found(&detail),
            Error::Refused(OrderRefusal::Invalid { field, message }) => Self::unprocessable(&field, message),
            Error::Refused(OrderRefusal::Conflict(detail)) => Self::new(StatusCode::CONFLICT, detail),
            Error::Store(source) => Self::new(
                StatusCode::INSUFFICIENT_STORAGE,
                format!("the order could not be stored: {source}"),
            ),
            Error::ShuttingDown => Self::unavailable(error.to_string()),
        }
    }
}

/// Returns author, reason and lifetime of an order. The reason in the body takes precedence over that in the header.
pub(crate) fn terms(
    write: &mut Write,
    reason: Option<String>,
    expires_in: Option<values::Duration>,
) -> Result<OrderRequest, Problem> {
    if expires_in.is_some_and(|length| length.0.is_zero()) {
        let detail = "`expires_in` is more than nothing; leave it out for good";
        return Err(Problem::unprocessable(&Path::default().key("expires_in"), detail));
    }
    let force = write.query.take_flag("force")?;
    let reason = reason.or_else(|| write.request.reason.clone());
    let author = write.request.author.clone();
    Ok(OrderRequest { author, reason, expires_in: expires_in.map(|length| length.0), force })
}

impl Admin {
    /// Gives the order that `decide` returns. A dry run only checks that it could be given.
    pub(crate) async fn order<T: Timed>(
        &self,
        write: Write,
        force: bool,
        decide: impl FnOnce(&Situation<'_>) -> Result<(Orders, T), OrderRefusal> + Send,
    ) -> Result<T, Problem> {
        write.query.end()?;
        let given = if write.dry_run {
            self.supervisor.preview(force, decide).await
        } else {
            self.supervisor.execute(force, decide).await
        };
        given.map_err(Problem::from)
    }

    /// Refuses a request about an upstream that does not exist, before its body is checked.
    pub(crate) fn check_upstream(&self, name: &str) -> Result<(), Problem> {
        if self.cache.build().model.upstreams.contains_key(name) {
            Ok(())
        } else {
            Err(unknown_upstream(name))
        }
    }
}

/// Returns 404 for an upstream.
pub(crate) fn unknown_upstream(name: &str) -> Problem {
    Problem::not_found(&format!("no upstream is named `{name}`"))
}
