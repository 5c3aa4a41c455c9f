//! Files that are saved and not deployed, and what a crash may leave half done.

use super::revisions::{gone, put};
use super::{Row, RowChange, Table};
use serde::{Deserialize, Serialize};

/// A configuration file that is not in force.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Draft {
    #[serde(skip)]
    pub name: String,
    /// Microseconds since 1970.
    pub saved: u64,
    /// The revision that was in force then.
    pub base: u64,
    pub text: String,
}

impl Draft {
    /// The draft of a row.
    ///
    /// # Errors
    /// Says what about it cannot be understood.
    pub fn of_row(row: &Row) -> Result<Self, String> {
        match serde_json::from_slice::<Self>(&row.value) {
            Ok(draft) => Ok(Self {
                name: row.key.clone(),
                ..draft
            }),
            Err(error) => Err(format!("the draft {:?} is damaged: {error}", row.key)),
        }
    }

    /// Writes its row.
    #[must_use]
    pub fn saved(&self) -> RowChange {
        // Texts and numbers can always be written.
        put(
            Table::Drafts,
            &self.name,
            serde_json::to_vec(self).unwrap_or_default(),
        )
    }

    /// Removes its row.
    #[must_use]
    pub fn deleted(name: &str) -> RowChange {
        gone(Table::Drafts, name.to_owned())
    }
}

/// What is to be brought to its end after a crash.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unfinished {
    /// The configuration file is to hold the text of a revision, instead of exactly this one.
    File { revision: u64, instead_of: String },
    /// A revision waits for its confirmation. Its file is not written yet.
    Confirmation {
        revision: u64,
        /// Rows of [`Table::Objects`] that it has taken away, and that come back with the file before.
        #[serde(default)]
        returning: Vec<Row>,
    },
}

impl Unfinished {
    const KEY: &str = "deployment";

    /// What rows tell: there is at most one.
    #[must_use]
    pub fn of_rows(rows: &[Row]) -> Option<Self> {
        let row = rows.iter().find(|row| row.key == Self::KEY)?;
        serde_json::from_slice(&row.value).ok()
    }

    /// Notes it.
    #[must_use]
    pub fn noted(&self) -> RowChange {
        // Texts and numbers can always be written.
        put(
            Table::Unfinished,
            Self::KEY,
            serde_json::to_vec(self).unwrap_or_default(),
        )
    }

    /// Nothing is unfinished any more.
    #[must_use]
    pub fn done() -> RowChange {
        gone(Table::Unfinished, Self::KEY.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_as_they_were_written() {
        let draft = Draft {
            name: "d".to_owned(),
            saved: 5,
            base: 3,
            text: "[node]\n\"ü\"".to_owned(),
        };
        let row = |change: RowChange| Row {
            key: change.key,
            value: change.value.unwrap(),
        };
        assert_eq!(Draft::of_row(&row(draft.saved())), Ok(draft.clone()));
        let damaged = Row {
            value: b"[]".to_vec(),
            ..row(draft.saved())
        };
        assert!(Draft::of_row(&damaged).unwrap_err().contains("\"d\" is damaged"));
        for unfinished in [
            Unfinished::File {
                revision: 3,
                instead_of: "x".to_owned(),
            },
            Unfinished::Confirmation {
                revision: 4,
                returning: vec![row(draft.saved())],
            },
        ] {
            assert_eq!(Unfinished::of_rows(&[row(unfinished.noted())]), Some(unfinished));
        }
        assert_eq!(Unfinished::of_rows(&[]), None);
    }
}
