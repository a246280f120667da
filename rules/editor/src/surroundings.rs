//! The bundle a rules file lies in, as far as an editor needs it: what `call` and `request` may name.
//!
//! Read anew when a file is opened or saved, and never written. A file outside of a bundle has no surroundings: then
//! nothing is known, and nothing said, of functions.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use celesta_bundle::SERVICE_FILE;
use toml::de::{DeTable, DeValue};

use crate::outline::Span;

/// Files of functions and tests that are looked at: more than any service has, and a bound for a folder that is none.
const ENTRIES_MAX: usize = 10_000;
/// Bytes of a file that is looked at.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// The file that makes a folder a function.
const MANIFEST_FILE: &str = "function.toml";

/// A function of the bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Callable {
    pub(crate) manifest: PathBuf,
    pub(crate) description: Option<String>,
}

/// An operation of the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Operation {
    pub(crate) workflow: String,
    /// Where its fact type is written in `service.toml`, quotes included, and the type.
    pub(crate) fact: Option<(String, Span)>,
    pub(crate) description: Option<String>,
    /// Where its name is written.
    pub(crate) place: Span,
}

/// What lies around a rules file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Surroundings {
    /// The bundle's folder; none outside of bundles.
    pub(crate) root: Option<PathBuf>,
    pub(crate) service: Option<String>,
    pub(crate) callables: BTreeMap<String, Callable>,
    pub(crate) operations: BTreeMap<String, Operation>,
}

impl Surroundings {
    /// What lies around the file: its bundle is the folder with a `service.toml` that holds `rules`.
    pub(crate) fn of(file: &Path) -> Self {
        let root = file
            .parent()
            .filter(|folder| folder.ends_with("rules"))
            .and_then(Path::parent)
            .filter(|root| root.join(SERVICE_FILE).is_file());
        root.map(Self::read).unwrap_or_default()
    }

    fn read(root: &Path) -> Self {
        let mut surroundings = Self {
            root: Some(root.to_owned()),
            ..Self::default()
        };
        for folder in entries(&root.join("functions")) {
            let manifest = folder.join(MANIFEST_FILE);
            let Some(name) = folder.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            let Some(text) = text_of(&manifest) else {
                continue;
            };
            let (document, _) = DeTable::parse_recoverable(&text);
            let description = text_at(document.get_ref(), "description");
            let callable = Callable {
                manifest,
                description,
            };
            surroundings.callables.insert(name.to_owned(), callable);
        }
        if let Some(text) = text_of(&root.join(SERVICE_FILE)) {
            surroundings.service(&text);
        }
        surroundings
    }

    fn service(&mut self, text: &str) {
        let (document, _) = DeTable::parse_recoverable(text);
        let document = document.get_ref();
        self.service = text_at(document, "name");
        let Some(DeValue::Table(operations)) = document.get("operations").map(|value| value.get_ref()) else {
            return;
        };
        for (name, value) in operations {
            let DeValue::Table(table) = value.get_ref() else {
                continue;
            };
            let fact = table.get("fact").and_then(|value| match value.get_ref() {
                DeValue::String(fact) => Some((fact.to_string(), value.span())),
                _ => None,
            });
            let operation = Operation {
                workflow: text_at(table, "workflow").unwrap_or_default(),
                fact,
                description: text_at(table, "description"),
                place: name.span(),
            };
            self.operations.insert(name.get_ref().to_string(), operation);
        }
    }

    /// The operations as `request` names them.
    pub(crate) fn requests(&self) -> impl Iterator<Item = (String, &Operation)> {
        let service = self.service.as_deref();
        self.operations
            .iter()
            .filter_map(move |(name, operation)| Some((format!("{}/{name}", service?), operation)))
    }

    /// The scenario files of the bundle and their texts.
    pub(crate) fn scenarios(&self) -> Vec<(PathBuf, String)> {
        let Some(root) = &self.root else {
            return Vec::new();
        };
        entries(&root.join("tests"))
            .into_iter()
            .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
            .filter_map(|path| text_of(&path).map(|text| (path, text)))
            .collect()
    }
}

/// A text under a key of a table.
pub(crate) fn text_at(table: &DeTable<'_>, key: &str) -> Option<String> {
    match table.get(key)?.get_ref() {
        DeValue::String(text) => Some(text.to_string()),
        _ => None,
    }
}

/// The text of a file that is small enough to be written by people.
pub(crate) fn text_of(path: &Path) -> Option<String> {
    let size = fs::metadata(path).ok()?.len();
    (size <= FILE_BYTES_MAX).then(|| fs::read_to_string(path).ok())?
}

/// What a folder holds, in order; nothing when it cannot be read.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(read) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut entries: Vec<PathBuf> = read
        .take(ENTRIES_MAX)
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    entries.sort();
    entries
}
