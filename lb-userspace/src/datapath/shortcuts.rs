//! The short ways to applications: who writes an application's record writes its row as well.

use super::sys;
use anyhow::{Context, Result};
use aya::maps::{Array, IterableMap, Map, MapData};
use lb_common::abi::{Application, ApplicationKey, Shortcut, maps};
use std::collections::BTreeMap;
use std::os::fd::AsFd;

/// The map, and what it holds.
pub struct Shortcuts {
    map: Array<MapData, Shortcut>,
    rows: Vec<Shortcut>,
}

impl Shortcuts {
    /// Takes the map by name from `take`, and makes it true of the applications that there are: a program that knows no
    /// such map may have left them.
    ///
    /// # Errors
    /// When a map is missing or of another kind, or cannot be read or written.
    pub fn new(mut take: impl FnMut(&str) -> Result<Map>) -> Result<Self> {
        let map: Array<MapData, Shortcut> = take(maps::SHORTCUTS)?.try_into()?;
        let Map::HashMap(applications) = take(maps::APPLICATIONS)? else {
            anyhow::bail!("the map {} is of another kind", maps::APPLICATIONS)
        };
        let mut records = BTreeMap::new();
        sys::for_each(
            applications.fd().as_fd(),
            |key: &ApplicationKey, record: &Application| {
                records.insert(*key, *record);
            },
        )
        .context("read the applications")?;
        let rows: Vec<Shortcut> =
            sys::rows(map.map().fd().as_fd(), 0, Shortcut::ROWS).context("read the short ways")?;
        let mut shortcuts = Self { map, rows };
        // A row that is true stays as it is: packets read it.
        for held in &mut shortcuts.rows {
            let record = records.get(&held.key);
            if record.and_then(|record| Shortcut::of(held.key, record)) != Some(*held) {
                *held = Shortcut::default();
            }
        }
        for (key, record) in &records {
            shortcuts.hold(key, record);
        }
        shortcuts.repair()?;
        Ok(shortcuts)
    }

    /// Notes the row of a record; who is there stays there. Returns the row that changed.
    fn hold(&mut self, key: &ApplicationKey, record: &Application) -> Option<u32> {
        let row = Shortcut::row(key);
        let held = self.rows.get_mut(row as usize)?;
        let free = held.key == ApplicationKey::default() || held.key == *key;
        let next = Shortcut::of(*key, record).unwrap_or_default();
        if !free || *held == next {
            return None;
        }
        *held = next;
        Some(row)
    }

    /// Follows a record that is written, of a generation that is not live.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn set(&mut self, key: &ApplicationKey, record: &Application) -> Result<()> {
        match self.hold(key, record) {
            Some(row) => self.write(row),
            None => Ok(()),
        }
    }

    /// Follows a record that is removed, of a generation that is not live.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn remove(&mut self, key: &ApplicationKey) -> Result<()> {
        self.set(key, &Application::default())
    }

    fn write(&mut self, row: u32) -> Result<()> {
        let held = self.rows.get(row as usize).copied().unwrap_or_default();
        self.map
            .set(row, held, 0)
            .with_context(|| format!("write the short way {row}"))
    }

    /// Makes the map hold what was written, where another program or a defect has changed it, and says whether one had.
    ///
    /// # Errors
    /// When the map cannot be read or written.
    pub fn repair(&mut self) -> Result<bool> {
        let mut changed = false;
        for row in 0..Shortcut::ROWS {
            if self.map.get(&row, 0)? != self.rows.get(row as usize).copied().unwrap_or_default() {
                self.write(row)?;
                changed = true;
            }
        }
        Ok(changed)
    }
}
