//! All objects of a configuration.

use super::entry::{Entry, Id};
use super::file::FileObjects;
use crate::cloudflare::Failure;
use crate::config::Kind;
use std::collections::HashMap;
use std::sync::Arc;

/// The objects of the file, each kind in its order, and then those of the API in the order of their creation.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    file: Arc<FileObjects>,
    of_file: Vec<Arc<Entry>>,
    of_api: Vec<Arc<Entry>>,
    ids: HashMap<(Kind, Id), Arc<Entry>>,
    names: HashMap<(Kind, String), Id>,
}

impl Catalog {
    #[must_use]
    pub fn new(file: Arc<FileObjects>, mut of_api: Vec<Arc<Entry>>) -> Self {
        of_api.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        let name = |entry: &Arc<Entry>| ((entry.kind(), entry.name.clone()), entry.id.clone());
        let of_file = file.entries();
        let names = of_api.iter().chain(&of_file).map(name).collect();
        let ids = of_file
            .iter()
            .chain(&of_api)
            .map(|entry| ((entry.kind(), entry.id.clone()), Arc::clone(entry)))
            .collect();
        Self {
            file,
            of_file,
            of_api,
            ids,
            names,
        }
    }

    /// What the file declares.
    #[must_use]
    pub fn file(&self) -> &Arc<FileObjects> {
        &self.file
    }

    /// The objects that were made through the API.
    #[must_use]
    pub fn of_api(&self) -> &[Arc<Entry>] {
        &self.of_api
    }

    /// All objects of a kind.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Arc<Entry>> {
        self.all().filter(move |entry| entry.kind() == kind)
    }

    /// All objects.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.of_file.iter().chain(&self.of_api)
    }

    /// The object of that kind and id.
    #[must_use]
    pub fn get(&self, kind: Kind, id: &Id) -> Option<&Arc<Entry>> {
        self.ids.get(&(kind, id.clone()))
    }

    /// The object that a client means by `id`.
    ///
    /// # Errors
    /// 404 when there is none.
    pub fn find(&self, kind: Kind, id: &str) -> Result<&Arc<Entry>, Failure> {
        let found = Id::parse(id).and_then(|id| self.get(kind, &id));
        found.ok_or_else(|| Failure::not_found(kind, id))
    }

    /// The object of that kind with that name in the file's vocabulary.
    #[must_use]
    pub fn named(&self, kind: Kind, name: &str) -> Option<&Arc<Entry>> {
        self.get(kind, self.names.get(&(kind, name.to_owned()))?)
    }
}
