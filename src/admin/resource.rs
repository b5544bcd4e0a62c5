//! Resources of the admin API, a file each: routes, handlers, and the views that no other resource has.

mod backup;
mod config;
mod drills;
mod entities;
mod events;
mod failovers;
mod files;
mod fleet;
mod health;
pub(crate) mod metrics;
mod notify;
mod orders;
mod pins;
mod raw;
mod revisions;
mod settings;
mod simulate;
mod snapshots;
mod states;
mod status;
mod tokens;
mod topology;

use crate::admin::route::ApiRoute;

/// Returns the routes of all resources.
pub(crate) fn routes() -> Vec<ApiRoute> {
    [
        entities::routes(),
        raw::routes(),
        config::routes(),
        revisions::routes(),
        health::routes(),
        settings::routes(),
        states::routes(),
        pins::routes(),
        drills::routes(),
        orders::routes(),
        failovers::routes(),
        topology::routes(),
        fleet::routes(),
        simulate::routes(),
        snapshots::routes(),
        files::routes(),
        notify::routes(),
        tokens::routes(),
        backup::routes(),
        events::routes(),
        metrics::routes(),
        status::routes(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
