//! Watches the configuration file: a change of its content asks for a reload.

use anyhow::{Context, Result};
use notify::{RecursiveMode, Watcher};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc;

/// Editors write a file in several steps; the last one counts.
const QUIET: Duration = Duration::from_millis(150);

/// A watch on one file.
pub struct FileWatch {
    path: PathBuf,
    /// What was read last, so that a touch is no change.
    content: Option<Vec<u8>>,
    events: mpsc::UnboundedReceiver<()>,
    _watcher: notify::RecommendedWatcher,
}

impl FileWatch {
    /// Watches the folder of `path`: renames and symbolic links put new files in its place.
    ///
    /// # Errors
    /// When the system refuses the watch.
    pub fn new(path: &Path) -> Result<Self> {
        let path = std::path::absolute(path).with_context(|| format!("find {}", path.display()))?;
        let folder = path.parent().context("the configuration file has no folder")?;
        let (sender, events) = mpsc::unbounded_channel();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| !event.kind.is_access()) {
                // The daemon has stopped when nobody listens.
                let _ = sender.send(());
            }
        })
        .context("watch the configuration file")?;
        watcher
            .watch(folder, RecursiveMode::NonRecursive)
            .with_context(|| format!("watch {}", folder.display()))?;
        Ok(Self {
            content: std::fs::read(&path).ok(),
            path,
            events,
            _watcher: watcher,
        })
    }

    /// Waits until the file's content is another than the one last read.
    pub async fn changed(&mut self) {
        loop {
            if self.events.recv().await.is_none() {
                return std::future::pending().await;
            }
            while tokio::time::timeout(QUIET, self.events.recv())
                .await
                .is_ok_and(|event| event.is_some())
            {}
            let content = std::fs::read(&self.path).ok();
            // A file that is away for a moment is about to be replaced.
            if content.is_some() && content != self.content {
                self.content = content;
                return;
            }
        }
    }

    /// Takes the present content as known: somebody else has had it read.
    pub fn settle(&mut self) {
        self.content = std::fs::read(&self.path).ok();
    }
}
