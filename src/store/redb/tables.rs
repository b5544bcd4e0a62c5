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
/// Format of the database, the hash of refused files, the mark that there was a token, and the store's id.
pub(super) const FORMAT: TableDefinition<'_, &str, u64> = TableDefinition::new("format");

/// Key of the format's version in [`FORMAT`].
pub(super) const VERSION_KEY: &str = "version";
/// Key of the hash of files that an Envoy refused, in [`FORMAT`].
pub(super) const REFUSED_FILES: &str = "refused_files";

/// Key of the mark that there was a token once, in [`FORMAT`].
pub(super) const HAD_TOKEN: &str = "had_token";

/// Key of the store's id, in [`FORMAT`]. A database of an earlier release has none until it is opened.
pub(super) const STORE_ID: &str = "store_id";

/// Version of the format. Version 1 had entities only, 2 no records, 3 no tokens.
pub(super) const VERSION: u64 = 4;
