//! Watches the configuration file: a change of its content asks for a reload.

use crate::config;
use anyhow::{Context, Result};
use notify::{RecursiveMode, Watcher};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

/// Editors write a file in several steps; the last one counts.
const QUIET: Duration = Duration::from_millis(150);

/// A watch on one file.
pub struct FileWatch {
    path: PathBuf,
    /// What was read last, so that a touch is no change.
    content: Option<Vec<u8>>,
    events: mpsc::UnboundedReceiver<()>,
    /// When the folder will have been quiet for long enough, while a change is being made.
    quiet_at: Option<Instant>,
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
            content: config::content(&path),
            path,
            events,
            quiet_at: None,
            _watcher: watcher,
        })
    }

    /// Waits until the file's content is another than the one last read. May be dropped and called again at any time.
    pub async fn changed(&mut self) {
        loop {
            // What has been seen is kept in `quiet_at`, because this future may be dropped at any await.
            let quiet_at = match self.quiet_at {
                Some(quiet_at) => quiet_at,
                None => {
                    if self.events.recv().await.is_none() {
                        return std::future::pending().await;
                    }
                    *self.quiet_at.insert(Instant::now() + QUIET)
                }
            };
            match timeout_at(quiet_at, self.events.recv()).await {
                Ok(_) => self.quiet_at = Some(Instant::now() + QUIET),
                Err(_) => {
                    self.quiet_at = None;
                    let content = config::content(&self.path);
                    // A file that is away for a moment is about to be replaced.
                    if content.is_some() && content != self.content {
                        self.content = content;
                        return;
                    }
                }
            }
        }
    }

    /// Takes the present content as known: somebody else has had it read.
    pub fn settle(&mut self) {
        self.content = config::content(&self.path);
    }
}
