//! Id of the store, kept in the database.

use std::num::NonZeroU64;

use redb::{Database, ReadableDatabase};

use crate::store::redb::tables::{FORMAT, STORE_ID};

/// Returns the id of a database. One without an id, whether new or of an earlier release, gets one.
pub(super) fn of(database: &Database) -> Result<NonZeroU64, redb::Error> {
    let known = database.begin_read()?.open_table(FORMAT)?.get(STORE_ID)?.map(|id| id.value());
    if let Some(id) = known.and_then(NonZeroU64::new) {
        return Ok(id);
    }
    let id = random();
    let transaction = database.begin_write()?;
    transaction.open_table(FORMAT)?.insert(STORE_ID, id.get())?;
    transaction.commit()?;
    Ok(id)
}

/// Returns a random number.
fn random() -> NonZeroU64 {
    let provider = rustls::crypto::ring::default_provider();
    let number = || {
        let mut bytes = [0; size_of::<u64>()];
        provider.secure_random.fill(&mut bytes).expect("the system has randomness");
        NonZeroU64::new(u64::from_le_bytes(bytes))
    };
    std::iter::repeat_with(number).flatten().next().expect("few of the numbers are 0")
}
