//! Transaction of a commit.

use jiff::{SignedDuration, Timestamp};
use redb::{Database, ReadableTable, ReadableTableMetadata, Table, WriteTransaction};

use crate::config::edit::EntityChange;
use crate::store::redb::encoding;
use crate::store::redb::newest;
use crate::store::redb::rollout;
use crate::store::redb::tables::{ANSWERS, ENTITIES, FILES, FORMAT, REFUSED_FILES, REVISIONS};
use crate::store::redb::texts;
use crate::store::{Commit, KEPT_REVISIONS, KeptAnswer, Revision};

/// Time for which an answer is kept.
const KEPT_ANSWERS: SignedDuration = SignedDuration::from_hours(24);

/// Writes a commit on the revision `before`, and returns its number. Expired answers are removed if `sweeps`.
pub(super) fn write(
    database: &Database,
    commit: &Commit,
    before: u64,
    sweeps: bool,
) -> Result<u64, redb::Error> {
    let transaction = database.begin_write()?;
    let number = newest::count(&transaction)?;
    undo_after(&transaction, before)?;
    {
        let mut entities = transaction.open_table(ENTITIES)?;
        for change in &commit.changes {
            apply(&mut entities, change)?;
        }
    }
    rollout::write(&transaction, &commit.rollout)?;
    write_revisions(&transaction, commit.amended.iter().chain(&commit.revisions))?;
    write_answers(&transaction, &commit.answers, sweeps)?;
    if let Some(files) = &commit.files {
        texts::write(&mut transaction.open_table(FILES)?, files)?;
    }
    {
        let mut format = transaction.open_table(FORMAT)?;
        match commit.refused_files {
            Some(hash) => drop(format.insert(REFUSED_FILES, hash)?),
            None if commit.files.is_some() => drop(format.remove(REFUSED_FILES)?),
            None => {}
        }
    }
    transaction.commit()?;
    Ok(number)
}

/// True if the answer is kept at that time.
pub(super) fn is_kept(answer: &KeptAnswer, now: Timestamp) -> bool {
    now.duration_since(answer.time) < KEPT_ANSWERS
}

fn write_revisions<'r>(
    transaction: &WriteTransaction,
    changed: impl Iterator<Item = &'r Revision>,
) -> Result<(), redb::Error> {
    let mut revisions = transaction.open_table(REVISIONS)?;
    for revision in changed {
        revisions.insert(revision.number, encoding::revision(revision).as_slice())?;
    }
    while revisions.len()? > KEPT_REVISIONS {
        // Without those from the first that waits on, a start could not tell what is in effect.
        let oldest = revisions.first()?.map_or(u64::MAX, |(number, _)| number.value());
        if rollout::first_waiting(transaction)?.is_some_and(|waiting| oldest >= waiting) {
            break;
        }
        revisions.pop_first()?;
    }
    Ok(())
}

fn write_answers(
    transaction: &WriteTransaction,
    new: &[(String, KeptAnswer)],
    sweeps: bool,
) -> Result<(), redb::Error> {
    if new.is_empty() {
        return Ok(());
    }
    let mut answers = transaction.open_table(ANSWERS)?;
    for (key, answer) in new {
        answers.insert(key.as_str(), encoding::answer(answer).as_slice())?;
    }
    if sweeps {
        let now = Timestamp::now();
        let is_young =
            |record: &[u8]| encoding::read_answer(record).is_some_and(|answer| is_kept(&answer, now));
        answers.retain(|_, record| is_young(record))?;
    }
    Ok(())
}

fn apply(entities: &mut Table<'_, (&str, &str), &[u8]>, change: &EntityChange) -> Result<(), redb::Error> {
    match change {
        EntityChange::Put { kind, name, body } => {
            entities.insert((kind.plural(), name.as_str()), encoding::entity(body).as_slice())?;
        }
        EntityChange::Delete { kind, name } => {
            entities.remove((kind.plural(), name.as_str()))?;
        }
    }
    Ok(())
}

/// Undoes the revisions after `last`. They exist only if a commit reached the disk and failed nevertheless.
fn undo_after(transaction: &WriteTransaction, last: u64) -> Result<(), redb::Error> {
    let mut revisions = transaction.open_table(REVISIONS)?;
    let mut entities = transaction.open_table(ENTITIES)?;
    loop {
        let newest = revisions.last()?.map(|(number, record)| (number.value(), record.value().to_owned()));
        let Some((number, record)) = newest.filter(|(number, _)| *number > last) else { return Ok(()) };
        let edits =
            encoding::read_revision(number, &record).map(|revision| revision.edits).unwrap_or_default();
        for edit in edits.into_iter().filter(|edit| edit.file.is_none()).rev() {
            apply(&mut entities, &EntityChange::undoing(edit))?;
        }
        revisions.remove(number)?;
        rollout::forget(transaction, number)?;
    }
}
