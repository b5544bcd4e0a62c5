//! Pages of lists.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;

use crate::admin::http::problem::Problem;
use crate::admin::http::request::Parameters;

/// Default and maximum number of items of a page.
const SIZES: (usize, usize) = (100, 1000);

/// Page of a list.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "{T}Page")]
pub(crate) struct Items<T> {
    /// Items of the page.
    pub(crate) items: Vec<T>,
    /// Path of the next page; null on the last.
    pub(crate) next: Option<String>,
}

/// Position and size of a page of a list that is numbered, the newest first.
#[derive(Debug)]
pub(crate) struct NumberedPage {
    size: usize,
    /// Upper bound of the numbers, exclusive.
    after: u64,
}

impl NumberedPage {
    /// Takes `size` and `after` out of a query.
    pub(crate) fn take(query: &mut Parameters) -> Result<Self, Problem> {
        let mut number = |name: &str| match query.take(name)? {
            None => Ok(None),
            Some(text) => text.parse::<u64>().map(Some).map_err(|_| {
                Problem::new(StatusCode::BAD_REQUEST, format!("`{name}` is a number, not `{text}`"))
            }),
        };
        let size = number("size")?.map_or(Ok(SIZES.0), usize::try_from).unwrap_or(SIZES.1);
        Ok(Self { size: size.clamp(1, SIZES.1), after: number("after")?.unwrap_or(u64::MAX) })
    }

    /// Returns the page of the entries that `is_wanted` selects, as `view` shows them.
    pub(crate) fn of<T, V>(
        &self,
        path: &str,
        all: &BTreeMap<u64, T>,
        is_wanted: impl Fn(&T) -> bool,
        view: impl Fn(u64, &T) -> V,
    ) -> Items<V> {
        let mut found = all.range(..self.after).rev().filter(|(_, entry)| is_wanted(entry));
        let (mut items, mut last) = (Vec::new(), 0);
        for (number, entry) in found.by_ref().take(self.size) {
            items.push(view(*number, entry));
            last = *number;
        }
        let next = found.next().is_some().then(|| format!("{path}?after={last}&size={}", self.size));
        Items { items, next }
    }
}
