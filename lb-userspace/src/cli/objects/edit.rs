//! `edit`: an object as text in an editor, until it is right or given up; or field by field.

use super::remote::{Refused, Remote};
use super::{create, done, title};
use crate::cli::{Exit, Failure, Global};
use crate::config::Kind;
use crate::objects::{parse_text, set_fields, write_text};
use crate::wire::{Object, Problem};
use clap::Args;
use std::ffi::{OsStr, OsString};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// How often an editor is opened: one that nobody sits at may never come to an end.
const ROUNDS: usize = 100;

/// How often `--set` begins again when somebody else was faster.
const TURNS: usize = 5;

/// `edit NAME`.
#[derive(Args, Debug)]
pub(super) struct Edit {
    /// Its name or id
    pub name: String,
    /// Set a field without an editor, such as --set minimum_origins=2 or --set origins.a.weight=0.5; without a value it gets
    /// its default; repeat for more
    #[arg(long, value_name = "FIELD=VALUE")]
    pub set: Vec<String>,
    /// Take the whole text from a file (- for stdin) instead of an editor
    #[arg(short, long, value_name = "FILE", conflicts_with = "set")]
    file: Option<PathBuf>,
}

impl Edit {
    pub fn run(self, remote: &Remote, global: &Global) -> Result<(), Failure> {
        let changed = match &self.file {
            _ if !self.set.is_empty() => Some(set(remote, &self.name, &self.set)?),
            Some(path) => {
                let (shown, text) = (remote.show(&self.name)?, create::read(path)?);
                let file = path.display().to_string();
                Some(
                    remote
                        .replace(&shown, &text)
                        .map_err(|refused| refused.into_failure(&file))?,
                )
            }
            None => in_editor(remote, &self.name)?,
        };
        match changed {
            Some(object) => done(global, &object, || {
                format!("{} changed", title(remote.kind, &object))
            }),
            None => {
                global.say("nothing was changed");
                Ok(())
            }
        }
    }
}

/// Sets fields of an object as it is now, whatever else changes meanwhile.
pub(super) fn set(remote: &Remote, name: &str, assignments: &[String]) -> Result<Object, Failure> {
    let mut turns = 0;
    loop {
        let shown = remote.show(name)?;
        refuse_declared(remote.kind, &shown)?;
        let mut object =
            parse_text(remote.kind, shown.toml.as_deref().unwrap_or_default()).map_err(|_| {
                Failure::new(
                    Exit::Failed,
                    "the answer is not understood: is the daemon of the same version?",
                )
            })?;
        set_fields(&mut object, assignments).map_err(|message| Failure::new(Exit::Usage, message))?;
        match remote.replace(&shown, &write_text(&object)) {
            Ok(object) => return Ok(object),
            Err(Refused::Changed(_)) if turns < TURNS => turns += 1,
            // Nobody has seen the text: its lines mean nothing.
            Err(Refused::Invalid { message, problems }) => {
                let lines: String = problems
                    .iter()
                    .map(|problem| format!("\n{}", problem.message))
                    .collect();
                return Err(Failure::new(Exit::Configuration, message + &lines));
            }
            Err(refused) => return Err(refused.into_failure("")),
        }
    }
}

/// What the file declares is edited there: nobody is to find that out after the work.
fn refuse_declared(kind: Kind, shown: &Object) -> Result<(), Failure> {
    match &shown.declared {
        None => Ok(()),
        Some(place) => Err(Failure::new(
            Exit::Conflict,
            format!(
                "the {} is declared in {}:{} and can only be changed there: edit the file, and it is read again when it is \
                 saved",
                title(kind, shown),
                place.file,
                place.line
            ),
        )),
    }
}

fn in_editor(remote: &Remote, name: &str) -> Result<Option<Object>, Failure> {
    let shown = remote.show(name)?;
    refuse_declared(remote.kind, &shown)?;
    let file = Draft::new(remote.kind)?;
    let head = format!(
        "# The {}. What is saved here is in force at once.\n# An unchanged or an empty text changes nothing; comments are not kept.\n",
        title(remote.kind, &shown)
    );
    let text = shown.toml.as_deref().unwrap_or_default();
    let edited = edit(
        &head,
        text,
        |text| {
            file.write(text)?;
            run_editor(&editor(), file.path())?;
            file.read()
        },
        |text| remote.replace(&shown, text),
    );
    match edited {
        Ok(changed) => {
            file.remove();
            Ok(changed)
        }
        Err(GivenUp {
            failure,
            text: Some(text),
        }) => {
            // As it was before anything was added to it.
            file.write(&text)?;
            let message = format!(
                "{}\nyour text is kept in {}",
                failure.message,
                file.path().display()
            );
            Err(Failure { message, ..failure })
        }
        Err(GivenUp { failure, text: None }) => {
            file.remove();
            Err(failure)
        }
    }
}

/// An end without a change.
#[derive(Debug)]
pub(super) struct GivenUp {
    pub failure: Failure,
    /// What was written so far, if it is anything new.
    pub text: Option<String>,
}

/// Lets `open` change a text until `apply` takes it. `None`: nothing is to be changed.
pub(super) fn edit<T>(
    head: &str,
    original: &str,
    mut open: impl FnMut(&str) -> Result<String, Failure>,
    mut apply: impl FnMut(&str) -> Result<T, Refused>,
) -> Result<Option<T>, GivenUp> {
    let mut shown = format!("{head}\n{original}");
    let mut refused: Option<(String, Failure)> = None;
    for round in 1.. {
        let saved = match open(&shown) {
            Ok(saved) => saved,
            Err(failure) => {
                let text = refused.map(|(text, _)| text);
                return Err(GivenUp { failure, text });
            }
        };
        let text = without_head(&saved).to_owned();
        if text.trim().is_empty() || text.trim() == original.trim() {
            return Ok(None);
        }
        if let Some((last, failure)) = refused.take()
            && (last.trim() == text.trim() || round > ROUNDS)
        {
            return Err(GivenUp {
                failure,
                text: Some(text),
            });
        }
        match apply(&text) {
            Ok(done) => return Ok(Some(done)),
            Err(Refused::Invalid { message, problems }) => {
                let lines = head.lines().count() + problems.len() + 2;
                let told = comments(&message, &problems, lines);
                shown = format!("{head}{told}\n{text}");
                let failure = Refused::Invalid { message, problems }.into_failure("");
                refused = Some((text, failure));
            }
            Err(Refused::Changed(failure) | Refused::Failed(failure)) => {
                return Err(GivenUp {
                    failure,
                    text: Some(text),
                });
            }
        }
    }
    Ok(None)
}

/// What is wrong, as comments above a text that then begins `above` lines further down.
fn comments(message: &str, problems: &[Problem], above: usize) -> String {
    let mut text = format!("# ERROR: {}\n", message.replace('\n', " "));
    for problem in problems {
        let place = problem
            .line
            .map_or_else(String::new, |line| format!("line {}: ", line + above));
        text.push_str(&format!(
            "# ERROR: {place}{}\n",
            problem.message.replace('\n', " ")
        ));
    }
    text
}

/// The text behind the comments and empty lines that it begins with.
fn without_head(text: &str) -> &str {
    let mut rest = text;
    while let Some((line, after)) = rest.split_once('\n') {
        if !(line.trim().is_empty() || line.trim_start().starts_with('#')) {
            return rest;
        }
        rest = after;
    }
    if rest.trim_start().starts_with('#') {
        ""
    } else {
        rest
    }
}

/// $VISUAL, else $EDITOR, else vi.
fn editor() -> OsString {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    set("VISUAL")
        .or_else(|| set("EDITOR"))
        .unwrap_or_else(|| "vi".into())
}

/// The editor may come with arguments, as in `code --wait`: the shell tells them apart.
fn run_editor(editor: &OsStr, path: &Path) -> Result<(), Failure> {
    let mut script = editor.to_owned();
    script.push(" \"$1\"");
    let name = editor.to_string_lossy();
    let status = Command::new("/bin/sh")
        .arg("-c")
        .arg(script)
        .arg("lb")
        .arg(path)
        .status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failure::new(
            Exit::Failed,
            format!("the editor ({name}) ended with {status}: nothing was changed"),
        )),
        Err(error) => Err(Failure::new(
            Exit::Failed,
            format!("the editor ({name}) cannot be started: {error}; set VISUAL or EDITOR"),
        )),
    }
}

/// The file that the editor works on: only for the eyes of the user.
struct Draft(PathBuf);

impl Draft {
    fn new(kind: Kind) -> Result<Self, Failure> {
        let noun = kind.noun().replace(' ', "-");
        let process = std::process::id();
        for number in 0..1000 {
            let path = std::env::temp_dir().join(format!("lb-{noun}-{process}-{number}.toml"));
            match OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)
            {
                Ok(_) => return Ok(Self(path)),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(cannot("make", &path, &error)),
            }
        }
        Err(Failure::new(Exit::Failed, "no name is free for a temporary file"))
    }

    fn path(&self) -> &Path {
        &self.0
    }

    fn write(&self, text: &str) -> Result<(), Failure> {
        // An editor may have put another file in its place.
        let opened = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&self.0);
        opened
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(|error| cannot("write", &self.0, &error))
    }

    fn read(&self) -> Result<String, Failure> {
        fs::read_to_string(&self.0).map_err(|error| cannot("read", &self.0, &error))
    }

    fn remove(&self) {
        // What is left there is of no use to anybody.
        let _ = fs::remove_file(&self.0);
    }
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("cannot {what} {}: {error}", path.display()))
}
