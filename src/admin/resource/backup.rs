//! Backup of the store.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::access::tokens::Role;
use crate::admin::http::blocking;
use crate::admin::http::problem::Problem;
use crate::admin::route::{ApiRoute, Content};
use crate::admin::state::Admin;

/// Returns the routes.
pub(crate) fn routes() -> Vec<ApiRoute> {
    let content = Content::other("application/octet-stream");
    vec![
        ApiRoute::get("/backup", Role::Write, "Read a copy of all that is durable", read, content)
            .fails(&[500]),
    ]
}

/// Handles `GET /backup`: responds with the file that `understudy restore` takes.
async fn read(State(admin): State<Admin>) -> Result<Response, Problem> {
    let store = admin.store.clone();
    let bytes = blocking::run(move || {
        let directory = tempfile::tempdir().map_err(|error| failed(&error))?;
        let file = directory.path().join("backup.redb");
        store.backup(&file)?;
        std::fs::read(&file).map_err(|error| failed(&error))
    });
    let name = [(header::CONTENT_DISPOSITION, "attachment; filename=\"understudy-backup.redb\"")];
    Ok((name, bytes.await?).into_response())
}

fn failed(error: &std::io::Error) -> Problem {
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the backup could not be made: {error}"))
}
