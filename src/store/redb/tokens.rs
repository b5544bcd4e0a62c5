//! Tokens of the admin API in the database: each change and its checks are one transaction.

use redb::{ReadTransaction, ReadableTable, ReadableTableMetadata as _, WriteTransaction};

use crate::store::redb::encoding;
use crate::store::redb::tables::{FORMAT, HAD_TOKEN, TOKENS};
use crate::store::{RemovalTerms, TokenAddition, TokenRecord, TokenRemoval};

/// True if there is a token or ever was one. Versions without the mark kept no trace of removed tokens.
pub(super) fn had(transaction: &ReadTransaction) -> Result<bool, redb::Error> {
    let is_marked = transaction.open_table(FORMAT)?.get(HAD_TOKEN)?.is_some();
    Ok(is_marked || !transaction.open_table(TOKENS)?.is_empty()?)
}

/// Adds a token, if its name is free.
pub(super) fn add(
    transaction: &WriteTransaction,
    token: &TokenRecord,
    client: Option<&[u8]>,
) -> Result<TokenAddition, redb::Error> {
    let mut tokens = transaction.open_table(TOKENS)?;
    if !has(&records(&tokens)?, client) {
        return Ok(TokenAddition::ClientRevoked);
    }
    if tokens.get(token.name.as_str())?.is_some() {
        return Ok(TokenAddition::Taken);
    }
    tokens.insert(token.name.as_str(), encoding::token(token).as_slice())?;
    mark(transaction)?;
    Ok(TokenAddition::Added)
}

/// Removes a token, if the terms permit it.
pub(super) fn remove(
    transaction: &WriteTransaction,
    name: &str,
    terms: RemovalTerms<'_>,
) -> Result<TokenRemoval, redb::Error> {
    let mut tokens = transaction.open_table(TOKENS)?;
    let known = records(&tokens)?;
    if !has(&known, terms.client) {
        return Ok(TokenRemoval::ClientRevoked);
    }
    let is_kept = |token: &&TokenRecord| terms.kept_role == Some(token.role.as_str());
    let mut kept = known.iter().filter(is_kept);
    if kept.next().is_some_and(|token| token.name == name) && kept.next().is_none() {
        return Ok(TokenRemoval::Last);
    }
    if tokens.remove(name)?.is_none() {
        return Ok(TokenRemoval::Absent);
    }
    mark(transaction)?;
    Ok(TokenRemoval::Removed)
}

/// Returns the tokens. A damaged one admits nobody, so it does not count.
fn records(
    tokens: &impl ReadableTable<&'static str, &'static [u8]>,
) -> Result<Vec<TokenRecord>, redb::Error> {
    let mut records = Vec::new();
    for entry in tokens.iter()? {
        let (name, bytes) = entry?;
        records.extend(encoding::read_token(name.value(), bytes.value()));
    }
    Ok(records)
}

/// True if the token of a client exists; a client without one has nothing to lose.
fn has(tokens: &[TokenRecord], client: Option<&[u8]>) -> bool {
    client.is_none_or(|client| tokens.iter().any(|token| token.hash == client))
}

fn mark(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    transaction.open_table(FORMAT)?.insert(HAD_TOKEN, 1)?;
    Ok(())
}
