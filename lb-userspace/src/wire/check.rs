//! Results of checking and loading configuration files.

use crate::config::{ConfigErrors, Diagnostic};
use serde::{Deserialize, Serialize};

/// One error or warning about a configuration file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Problem {
    pub message: String,
    /// Path of the field, such as `pools.eu.origins.a.weight`; empty when the file as a whole is meant.
    pub field: String,
    pub file: String,
    /// Counted from 1; `None` when the file could not be read.
    pub line: Option<usize>,
    /// Counted from 1, in characters.
    pub column: Option<usize>,
    pub help: Option<String>,
}

impl From<&Diagnostic> for Problem {
    fn from(diagnostic: &Diagnostic) -> Self {
        let (line, column) = diagnostic.position().unzip();
        Self {
            message: diagnostic.message.clone(),
            field: diagnostic.field.clone(),
            file: diagnostic.file().to_owned(),
            line,
            column,
            help: diagnostic.help.clone(),
        }
    }
}

/// `file:line:column: field: message (help)`, as far as they are known.
impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.file)?;
        match (self.line, self.column, self.file.as_str()) {
            (Some(line), Some(_), "") => write!(f, "line {line}: ")?,
            (Some(line), Some(column), _) => write!(f, ":{line}:{column}: ")?,
            (_, _, "") => {}
            (_, _, _) => f.write_str(": ")?,
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)?;
        self.help.as_ref().map_or(Ok(()), |help| write!(f, " ({help})"))
    }
}

/// `lb check --json`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CheckReport {
    pub valid: bool,
    pub errors: Vec<Problem>,
    pub warnings: Vec<Problem>,
}

impl CheckReport {
    /// The report on a valid file.
    #[must_use]
    pub fn valid(warnings: &[Diagnostic]) -> Self {
        Self {
            valid: true,
            errors: Vec::new(),
            warnings: warnings.iter().map(Problem::from).collect(),
        }
    }

    /// The report on an invalid file.
    #[must_use]
    pub fn invalid(refused: &ConfigErrors) -> Self {
        Self {
            valid: false,
            errors: refused.errors.iter().map(Problem::from).collect(),
            warnings: refused.warnings.iter().map(Problem::from).collect(),
        }
    }
}

/// `POST /api/v1/reload`: the configuration is live.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Reloaded {
    pub generation: u32,
    pub warnings: Vec<Problem>,
}

/// `POST /api/v1/handover`: the daemon ends, and forwarding goes on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HandedOver {
    /// Of the process that ends.
    pub pid: u32,
}

/// `lb version --json`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Version {
    pub version: String,
    /// Layout of the kernel maps.
    pub abi_version: u32,
    pub api_version: u32,
}

/// One thing that `lb doctor` looked at.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DoctorCheck {
    pub check: String,
    /// `ok`, `warning` or `failed`.
    pub status: String,
    pub detail: String,
    pub remedy: Option<String>,
}

/// `GET /api/v1/objects`, for a daemon that takes over: the objects that were made through the API, as the store has them.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct StoredObjects {
    /// Keys and values.
    pub objects: Vec<(String, String)>,
}
