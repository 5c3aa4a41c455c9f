//! What the store holds of the objects: those of the API, and what was set by hand on those of the file.

use super::entry::Entry;
use super::overrides::Overrides;
use crate::store::Row;
use std::sync::Arc;

/// Everything about objects that is not in the file.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Stored {
    pub objects: Vec<Arc<Entry>>,
    /// Also of what some file does not declare.
    pub overrides: Arc<Overrides>,
}

impl Stored {
    /// What rows tell, and what about them cannot be understood.
    #[must_use]
    pub fn read(rows: &[Row]) -> (Self, Vec<String>) {
        let (mut objects, mut overrides, mut flaws) = (Vec::new(), Overrides::default(), Vec::new());
        for row in rows {
            let read = match Overrides::of_row(row) {
                Some(read) => read.map(|(subject, value)| overrides.set(subject, value)),
                None => Entry::of_row(row).map(|entry| objects.push(Arc::new(entry))),
            };
            flaws.extend(read.err());
        }
        let overrides = Arc::new(overrides);
        (Self { objects, overrides }, flaws)
    }

    /// The rows of all of it.
    #[must_use]
    pub fn rows(&self) -> Vec<Row> {
        let row = |entry: &Arc<Entry>| Row {
            key: entry.key(),
            value: entry.value(),
        };
        let objects = self.objects.iter().map(row);
        objects.chain(self.overrides.rows()).collect()
    }

    /// The same with further overrides, where there are none.
    #[must_use]
    pub fn and(mut self, further: &Overrides) -> Self {
        let missing = further
            .iter()
            .filter(|(subject, _)| self.overrides.get(subject).is_none());
        let missing: Vec<_> = missing
            .map(|(subject, value)| (subject.clone(), value.clone()))
            .collect();
        if !missing.is_empty() {
            let overrides = Arc::make_mut(&mut self.overrides);
            for (subject, value) in missing {
                overrides.set(subject, value);
            }
        }
        self
    }
}
