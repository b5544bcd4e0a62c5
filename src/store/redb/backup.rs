//! Copy of a database into a new file.

use std::path::Path;

use redb::backends::FileBackend;
use redb::{Database, ReadableDatabase, ReadableTable, Table};

use crate::store::redb::directory::create_file;
use crate::store::redb::tables::{
    ANSWERS, ENTITIES, FILES, FLEETS, FORMAT, LIVE_FILES, RECORDS, REVISIONS, TOKENS, WAITING,
};

/// Copies all tables, as of this moment, to a file that does not exist yet and that only its owner may read.
pub(super) fn copy(database: &Database, to: &Path) -> Result<(), redb::Error> {
    let from = database.begin_read()?;
    let copy = Database::builder().create_with_backend(FileBackend::new(create_file(to)?)?)?;
    let into = copy.begin_write()?;
    copy_table(&from.open_table(FORMAT)?, &mut into.open_table(FORMAT)?)?;
    copy_table(&from.open_table(ENTITIES)?, &mut into.open_table(ENTITIES)?)?;
    copy_table(&from.open_table(REVISIONS)?, &mut into.open_table(REVISIONS)?)?;
    copy_table(&from.open_table(ANSWERS)?, &mut into.open_table(ANSWERS)?)?;
    copy_table(&from.open_table(FILES)?, &mut into.open_table(FILES)?)?;
    copy_table(&from.open_table(RECORDS)?, &mut into.open_table(RECORDS)?)?;
    copy_table(&from.open_table(TOKENS)?, &mut into.open_table(TOKENS)?)?;
    copy_table(&from.open_table(WAITING)?, &mut into.open_table(WAITING)?)?;
    copy_table(&from.open_table(LIVE_FILES)?, &mut into.open_table(LIVE_FILES)?)?;
    copy_table(&from.open_table(FLEETS)?, &mut into.open_table(FLEETS)?)?;
    into.commit()?;
    Ok(())
}

fn copy_table<K: redb::Key, V: redb::Value>(
    from: &redb::ReadOnlyTable<K, V>,
    into: &mut Table<'_, K, V>,
) -> Result<(), redb::Error> {
    for entry in from.iter()? {
        let (key, value) = entry?;
        into.insert(key.value(), value.value())?;
    }
    Ok(())
}
