//! Documents in other dialects: as they were read, and the native documents that they became.

use std::sync::Arc;

use imbl::OrdMap;

use crate::config::Violation;
use crate::config::decode::ParsedFile;
use crate::config::dialect::listeners::NativeListeners;
use crate::config::dialect::note::Note;
use crate::config::dialect::report::FidelityReport;
use crate::config::dialect::{ForeignDocument, ReadingTerms, Translation};
use crate::config::document::Document;

/// Foreign documents of all files, and what became of them.
#[derive(Debug, Clone, Default)]
pub struct ForeignDocuments {
    /// Terms under which the files were read.
    pub(super) terms: ReadingTerms,
    /// Files that have foreign documents, by name.
    pub(super) files: OrdMap<String, Arc<ForeignFile>>,
    /// Listeners of native documents, which the translation goes by.
    pub(super) listeners: NativeListeners,
    /// Translation of all.
    pub(super) translation: Translation,
    /// Native documents by the name of their unit.
    pub(super) documents: OrdMap<String, Arc<Document>>,
}

/// Foreign documents of one file.
#[derive(Debug)]
pub(super) struct ForeignFile {
    pub(super) documents: Vec<ForeignDocument>,
    /// Values that no message may show, each with what stands for it in the file.
    pub(super) masks: Arc<[(String, String)]>,
}

impl ForeignDocuments {
    /// Replaces the foreign documents of a file. Returns false if it has none and had none.
    pub(super) fn put(&mut self, name: &str, ParsedFile { foreign, masks, .. }: ParsedFile) -> bool {
        if foreign.is_empty() {
            return self.files.remove(name).is_some();
        }
        let file = ForeignFile { documents: foreign, masks };
        self.files.insert(name.to_owned(), Arc::new(file));
        true
    }

    /// Iterates over the native documents.
    pub(super) fn documents(&self) -> impl Iterator<Item = &Arc<Document>> {
        self.documents.values()
    }

    /// Returns the foreign documents, by file.
    pub fn read(&self) -> impl Iterator<Item = (&str, &ForeignDocument)> {
        let of = |(name, file): (_, _)| -> Vec<(&str, &ForeignDocument)> {
            let (name, file): (&String, &Arc<ForeignFile>) = (name, file);
            file.documents.iter().map(|document| (name.as_str(), document)).collect()
        };
        self.files.iter().flat_map(of)
    }

    /// Returns the translation.
    pub fn translation(&self) -> &Translation {
        &self.translation
    }

    /// Iterates over the notes of readings and of the translation.
    pub fn notes(&self) -> impl Iterator<Item = &Note> {
        let read = self.files.values().flat_map(|file| &file.documents).flat_map(ForeignDocument::notes);
        read.chain(self.translation.units().values().flat_map(|unit| &unit.notes))
    }

    /// Replaces the values of variables in a report by what stands for them in the files.
    pub fn mask(&self, report: &mut FidelityReport) {
        let masks = || self.files.values().flat_map(|file| file.masks.iter());
        if masks().next().is_none() {
            return;
        }
        let masked = |text: &str| {
            masks().fold(text.to_owned(), |text, (value, template)| text.replace(value, template))
        };
        for item in &mut report.items {
            item.object = masked(&item.object);
            item.native = masked(&item.native);
            item.words = masked(&item.words).into();
        }
        for added in &mut report.added {
            added.native = masked(&added.native);
            added.because = masked(&added.because);
        }
    }

    /// Returns what `check` tells of the notes, at their own levels.
    pub fn violations(&self) -> Vec<Violation> {
        let masks: Vec<&(String, String)> = self.files.values().flat_map(|file| file.masks.iter()).collect();
        let mut violations: Vec<Violation> = self.notes().filter_map(Note::violation).collect();
        for violation in violations.iter_mut().filter(|_| !masks.is_empty()) {
            for (value, template) in &masks {
                violation.message = violation.message.replace(value, template);
            }
        }
        violations
    }
}
