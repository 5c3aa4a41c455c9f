//! All objects of a configuration.

use super::entry::{Body, Entry, Id};
use super::file::FileObjects;
use super::overrides::{Overrides, Subject};
use super::stored::Stored;
use crate::cloudflare::Failure;
use crate::config::{Document, Kind, suggestion};
use std::collections::HashMap;
use std::sync::Arc;

/// The objects of the file, each kind in its order, and then those of the API in the order of their creation.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    file: Arc<FileObjects>,
    overrides: Arc<Overrides>,
    of_file: Vec<Arc<Entry>>,
    of_api: Vec<Arc<Entry>>,
    ids: HashMap<(Kind, Id), Arc<Entry>>,
    names: HashMap<(Kind, String), Id>,
    /// What people call objects of the API whose name is their id; `None`: several.
    titles: HashMap<(Kind, String), Option<Id>>,
}

impl Catalog {
    #[must_use]
    pub fn new(file: Arc<FileObjects>, of_api: Vec<Arc<Entry>>) -> Self {
        Self::with(file, of_api, Arc::default())
    }

    /// The same with what was set by hand. Overrides of what the file does not declare are dropped.
    #[must_use]
    pub fn with(file: Arc<FileObjects>, mut of_api: Vec<Arc<Entry>>, mut overrides: Arc<Overrides>) -> Self {
        of_api.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        if overrides.iter().any(|(subject, _)| !file.declares(subject)) {
            Arc::make_mut(&mut overrides).retain(|subject| file.declares(subject));
        }
        let name = |entry: &Arc<Entry>| ((entry.kind(), entry.name.clone()), entry.id.clone());
        let of_file = file.entries(&overrides);
        let names: HashMap<_, _> = of_api.iter().chain(&of_file).map(name).collect();
        let mut titles: HashMap<_, Option<Id>> = HashMap::new();
        for entry in of_api.iter().filter(|entry| entry.title() != entry.name) {
            let key = (entry.kind(), entry.title().to_owned());
            let first = !names.contains_key(&key) && !titles.contains_key(&key);
            titles.insert(key, first.then(|| entry.id.clone()));
        }
        let ids = of_file
            .iter()
            .chain(&of_api)
            .map(|entry| ((entry.kind(), entry.id.clone()), Arc::clone(entry)))
            .collect();
        Self {
            file,
            overrides,
            of_file,
            of_api,
            ids,
            names,
            titles,
        }
    }

    /// The same objects of the API with another file.
    #[must_use]
    pub fn with_file(&self, file: Arc<FileObjects>) -> Self {
        Self::with(file, self.of_api.clone(), Arc::clone(&self.overrides))
    }

    /// The same file and overrides with other objects of the API.
    #[must_use]
    pub fn with_objects(&self, of_api: Vec<Arc<Entry>>) -> Self {
        Self::with(Arc::clone(&self.file), of_api, Arc::clone(&self.overrides))
    }

    /// The same objects with other overrides.
    #[must_use]
    pub fn with_overrides(&self, overrides: Arc<Overrides>) -> Self {
        Self::with(Arc::clone(&self.file), self.of_api.clone(), overrides)
    }

    /// What the file declares.
    #[must_use]
    pub fn file(&self) -> &Arc<FileObjects> {
        &self.file
    }

    /// What was set by hand on objects of the file.
    #[must_use]
    pub fn overrides(&self) -> &Overrides {
        &self.overrides
    }

    /// The objects that were made through the API.
    #[must_use]
    pub fn of_api(&self) -> &[Arc<Entry>] {
        &self.of_api
    }

    /// What of it the store holds.
    #[must_use]
    pub fn stored(&self) -> Stored {
        Stored {
            objects: self.of_api.clone(),
            overrides: Arc::clone(&self.overrides),
        }
    }

    /// The value of a row of [`Self::stored`]; `None`: there is no such row.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<Vec<u8>> {
        if let Some(subject) = Subject::of_key(key) {
            return self.overrides.value(&subject);
        }
        let (table, id) = key.split_once('/')?;
        let kind = Kind::ALL.into_iter().find(|kind| kind.table() == table)?;
        let entry = self.get(kind, &Id::parse(id)?)?;
        (entry.document == Document::Objects).then(|| entry.value())
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

    /// The object that people call `name`: by its id, its name, or the description of a monitor.
    ///
    /// # Errors
    /// 404 when there is none, 409 when there are several.
    pub fn called(&self, kind: Kind, name: &str) -> Result<&Arc<Entry>, Failure> {
        if let Ok(found) = self.find(kind, name) {
            return Ok(found);
        }
        if let Some(found) = self.named(kind, name) {
            return Ok(found);
        }
        let noun = kind.noun();
        match self.titles.get(&(kind, name.to_owned())) {
            Some(Some(id)) => self.find(kind, id.as_str()),
            Some(None) => {
                let same = self.of_kind(kind).filter(|entry| entry.title() == name);
                let ids: Vec<&str> = same.map(|entry| entry.id.as_str()).collect();
                let message = format!(
                    "several {noun}s are called `{name}`: use an id: {}",
                    ids.join(", ")
                );
                Err(Failure::new(409, 1003, message))
            }
            None => {
                let known = self.of_kind(kind).map(|entry| self.label(entry));
                let help = suggestion(name, known).map_or_else(String::new, |help| format!(" ({help})"));
                Err(Failure::new(
                    404,
                    1001,
                    format!("there is no {noun} `{name}`{help}"),
                ))
            }
        }
    }

    /// The name by which [`Self::called`] finds an object: the shortest that means no other.
    #[must_use]
    pub fn label<'e>(&self, entry: &'e Entry) -> &'e str {
        match (&entry.body, entry.document) {
            (Body::Monitor(_) | Body::MonitorGroup(_), Document::Objects) => {
                let title = (entry.kind(), entry.title().to_owned());
                match self.titles.get(&title) {
                    Some(Some(_)) => entry.title(),
                    Some(None) | None => &entry.name,
                }
            }
            (_, _) => &entry.name,
        }
    }
}
