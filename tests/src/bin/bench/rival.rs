//! The programs that take turns: this tree's, and that which it is compared with.

use crate::against::Object;
use crate::cases::{Build, Case};
use crate::foreign::Foreign;
use crate::layout::Shape;
use crate::lb::Lb;
use crate::subject::Subject;
use anyhow::Result;
use lb_userspace::datapath::pins::Pins;
use std::path::Path;

/// One of them, before it is loaded.
pub enum Rival {
    Lb(Object),
    Foreign(Foreign),
}

impl Rival {
    pub const OWN: Self = Self::Lb(Object::Own);

    /// Reads an earlier object of lb, or with an adapter any.
    ///
    /// # Errors
    /// A file cannot be read, or is not what it should be.
    pub fn read(object: &Path, adapter: Option<&Path>) -> Result<Self> {
        Ok(match adapter {
            None => Self::Lb(Object::read(object)?),
            Some(adapter) => Self::Foreign(Foreign::read(object, adapter)?),
        })
    }

    pub fn build(&self) -> Build {
        match self {
            Self::Lb(object) => object.build(),
            Self::Foreign(_) => Build::Foreign,
        }
    }

    pub fn name(&self) -> &'static str {
        match self.build() {
            Build::Present => "lb",
            Build::Earlier | Build::Tracking => "the earlier lb",
            Build::Foreign => "the other program",
        }
    }

    /// What must be known of it to read the results.
    pub fn words(&self) -> Option<String> {
        match self {
            Self::Lb(object) => object.lacks(),
            Self::Foreign(_) => None,
        }
    }

    /// Whether a case of one CPU is measured with it.
    pub fn serves(&self, case: &Case) -> bool {
        case.cpus == 1
            && match self {
                Self::Lb(_) => true,
                Self::Foreign(foreign) => foreign.serves(case),
            }
    }

    /// Loads it and fills its tables.
    ///
    /// # Errors
    /// The kernel refuses something.
    pub fn load(&self, build: Build, shape: Shape, pins: &Pins) -> Result<Box<dyn Subject>> {
        Ok(match self {
            Self::Lb(object) => Box::new(Lb::new(object, build, shape, pins)?),
            Self::Foreign(foreign) => Box::new(foreign.load(pins)?),
        })
    }
}
