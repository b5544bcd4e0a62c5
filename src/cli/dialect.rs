//! Option `--dialect`, and the environment of which foreign files take values.

use std::sync::Arc;

use crate::config::dialect::{Dialect, ReadingTerms};

/// Options for the format of files.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub(crate) struct DialectOptions {
    /// Format of all files, in place of what each document shows
    #[arg(long, value_enum, value_name = "NAME")]
    dialect: Option<DialectName>,
}

/// Names of dialects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum DialectName {
    /// The native config
    Native,
    /// Files of decK, and of a Kong without a database
    Kong,
}

impl DialectOptions {
    /// Returns the terms under which files are read, with the environment of the process.
    pub(crate) fn terms(self) -> ReadingTerms {
        let dialect = self.dialect.map(|name| match name {
            DialectName::Native => Dialect::Native,
            DialectName::Kong => Dialect::Kong,
        });
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        ReadingTerms { dialect, variables: Arc::new(variables) }
    }
}
