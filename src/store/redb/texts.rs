//! Texts of files in a table of the database.

use redb::{ReadableTable as _, Table};

use crate::config::edit::Files;

/// Makes the table hold these files.
pub(super) fn write(
    known: &mut Table<'_, &'static str, &'static str>,
    files: &Files,
) -> Result<(), redb::Error> {
    known.retain(|name, _| files.contains_key(name))?;
    for (name, text) in files {
        let is_known = known.get(name.as_str())?.is_some_and(|known| known.value() == &**text);
        if !is_known {
            known.insert(name.as_str(), &**text)?;
        }
    }
    Ok(())
}
