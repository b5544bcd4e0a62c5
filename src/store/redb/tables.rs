//! Tables of the database, and their format.

use redb::TableDefinition;

/// Entities by kind (as in the API's path) and name.
pub(super) const ENTITIES: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("entities");
/// Revisions by number.
pub(super) const REVISIONS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("revisions");
/// Answers to requests by their idempotency key.
pub(super) const ANSWERS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("answers");
/// Texts of the files that were accepted last, by name.
pub(super) const FILES: TableDefinition<'_, &str, &str> = TableDefinition::new("files");
/// Records of states beside the config and of events: JSON by kind and key.
pub(super) const RECORDS: TableDefinition<'_, (&str, &str), &str> = TableDefinition::new("jottings");
/// Tokens of the admin API by name.
pub(super) const TOKENS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("tokens");
/// Numbers of the revisions that are not in effect yet.
pub(super) const WAITING: TableDefinition<'_, u64, ()> = TableDefinition::new("waiting");
/// Texts of the files that are in effect, by name, while those that were accepted last are not.
pub(super) const LIVE_FILES: TableDefinition<'_, &str, &str> = TableDefinition::new("live_files");
/// Names of the fleets that had a connected Envoy.
pub(super) const FLEETS: TableDefinition<'_, &str, ()> = TableDefinition::new("fleets");
/// Format of the database, its id, the hash of refused files, the number of commits, and marks.
pub(super) const FORMAT: TableDefinition<'_, &str, u64> = TableDefinition::new("format");

/// Key of the format's version in [`FORMAT`].
pub(super) const VERSION_KEY: &str = "version";
/// Key of the hash of files that an Envoy refused, in [`FORMAT`].
pub(super) const REFUSED_FILES: &str = "refused_files";

/// Key of the mark that there was a token once, in [`FORMAT`].
pub(super) const HAD_TOKEN: &str = "had_token";

/// Key of the store's id, in [`FORMAT`]. A database of an earlier release has none until it is opened.
pub(super) const STORE_ID: &str = "store_id";
/// Key of the mark that [`LIVE_FILES`] has the files that are in effect, in [`FORMAT`].
pub(super) const HAS_LIVE_FILES: &str = "live_files";
/// Key of the mark that [`FLEETS`] was kept from the birth of the store on, in [`FORMAT`].
pub(super) const KNOWS_FLEETS: &str = "fleets";
/// Key of the number of commits since the birth of the store, in [`FORMAT`].
pub(super) const COMMITS: &str = "commits";

/// Version of the format. Version 1 had entities only, 2 no records, 3 no tokens, 4 no rollout and no number
/// of commits.
pub(super) const VERSION: u64 = 5;
