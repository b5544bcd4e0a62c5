//! Rollout in the database: revisions that wait, files that are in effect, and fleets that had Envoys.

use redb::{ReadTransaction, ReadableTable, WriteTransaction};

use crate::config::edit::Files;
use crate::store::redb::tables::{FLEETS, FORMAT, HAS_LIVE_FILES, KNOWS_FLEETS, LIVE_FILES, WAITING};
use crate::store::redb::texts;
use crate::store::{LiveFiles, RolloutChange, StoredRollout};

/// Reads the rollout. Revisions after `newest` are not there.
pub(super) fn read(transaction: &ReadTransaction, newest: u64) -> Result<StoredRollout, redb::Error> {
    let mut rollout = StoredRollout::default();
    for entry in transaction.open_table(WAITING)?.range(..=newest)? {
        rollout.waiting.insert(entry?.0.value());
    }
    let format = transaction.open_table(FORMAT)?;
    if format.get(HAS_LIVE_FILES)?.is_some() {
        let mut files = Files::new();
        for entry in transaction.open_table(LIVE_FILES)?.iter()? {
            let (name, text) = entry?;
            files.insert(name.value().to_owned(), text.value().into());
        }
        rollout.live_files = Some(files);
    }
    if format.get(KNOWS_FLEETS)?.is_some() {
        let fleets = transaction.open_table(FLEETS)?;
        let names = fleets.iter()?.map(|entry| Ok(entry?.0.value().to_owned()));
        rollout.fleets = Some(names.collect::<Result<_, redb::Error>>()?);
    }
    Ok(rollout)
}

/// Writes a change of the rollout.
pub(super) fn write(transaction: &WriteTransaction, change: &RolloutChange) -> Result<(), redb::Error> {
    let RolloutChange { waiting, decided, live_files, fleets } = change;
    if !waiting.is_empty() || !decided.is_empty() {
        let mut table = transaction.open_table(WAITING)?;
        for number in waiting {
            table.insert(number, ())?;
        }
        for number in decided {
            table.remove(number)?;
        }
    }
    if let Some(live_files) = live_files {
        write_live_files(transaction, live_files)?;
    }
    if let Some(fleets) = fleets {
        let mut table = transaction.open_table(FLEETS)?;
        table.retain(|name, ()| fleets.contains(name))?;
        for fleet in fleets {
            table.insert(fleet.as_str(), ())?;
        }
        transaction.open_table(FORMAT)?.insert(KNOWS_FLEETS, 1)?;
    }
    Ok(())
}

fn write_live_files(transaction: &WriteTransaction, live: &LiveFiles) -> Result<(), redb::Error> {
    let mut format = transaction.open_table(FORMAT)?;
    let mut table = transaction.open_table(LIVE_FILES)?;
    match live {
        LiveFiles::Accepted => {
            format.remove(HAS_LIVE_FILES)?;
            table.retain(|_, _| false)?;
        }
        LiveFiles::Other(files) => {
            format.insert(HAS_LIVE_FILES, 1)?;
            texts::write(&mut table, files)?;
        }
    }
    Ok(())
}

/// Returns the first revision that waits.
pub(super) fn first_waiting(transaction: &WriteTransaction) -> Result<Option<u64>, redb::Error> {
    let waiting = transaction.open_table(WAITING)?;
    let first = waiting.first()?.map(|(number, _)| number.value());
    Ok(first)
}

/// Forgets a revision that was undone.
pub(super) fn forget(transaction: &WriteTransaction, number: u64) -> Result<(), redb::Error> {
    transaction.open_table(WAITING)?.remove(number)?;
    Ok(())
}
