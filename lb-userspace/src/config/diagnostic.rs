//! What is wrong with a configuration, and where.

use super::reader::Place;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Which of the texts that make up a configuration.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Document {
    /// The configuration file.
    #[default]
    File,
    /// The objects that were made through the API, in the file's vocabulary.
    Objects,
}

/// The text of a document with the name it is known by.
#[derive(Debug)]
pub struct Source {
    name: String,
    text: String,
}

impl Source {
    /// `text` as the contents of the file `name`.
    #[must_use]
    pub fn new(name: &str, text: &str) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            text: text.to_owned(),
        })
    }

    /// What messages call it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Line and column, counted from 1 in characters, of a byte offset.
    pub(super) fn position(&self, offset: usize) -> (usize, usize) {
        let before = self.text.get(..offset).unwrap_or(&self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (
            before.matches('\n').count() + 1,
            before[line_start..].chars().count() + 1,
        )
    }
}

/// Whether a [`Diagnostic`] makes the file invalid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Severity {
    Error,
    Warning,
}

/// One thing that is wrong, or looks wrong, in a file.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    pub severity: Severity,
    /// The value and the rule it breaks.
    pub message: String,
    /// Path of the field in the file, such as `pools.eu.origins.a.weight`; empty when the file as a whole is meant.
    pub field: String,
    /// Where it is told: for a file that a document names, that document.
    pub document: Document,
    /// What to do about it.
    pub help: Option<String>,
    source: Arc<Source>,
    /// Bytes of the file; `None`: the file could not be read.
    span: Option<Range<usize>>,
    /// Where in the configuration file the file is named that it is about.
    told_at: Option<usize>,
}

impl Diagnostic {
    pub(super) fn new(severity: Severity, source: &Arc<Source>, place: &Place, span: Range<usize>) -> Self {
        Self {
            severity,
            message: String::new(),
            field: place.field.clone(),
            document: place.document,
            help: None,
            source: Arc::clone(source),
            span: Some(clamp(&source.text, span)),
            told_at: None,
        }
    }

    /// The file itself cannot be read.
    pub(super) fn unreadable(name: &str, message: String, help: &str) -> Self {
        Self {
            severity: Severity::Error,
            message,
            field: String::new(),
            document: Document::File,
            help: Some(help.to_owned()),
            source: Source::new(name, ""),
            span: None,
            told_at: None,
        }
    }

    /// About a field of a file that is right as it stands, and does not do now what it says.
    #[must_use]
    pub fn warning(source: &Arc<Source>, field: &str, message: String, help: &str) -> Self {
        Self {
            severity: Severity::Warning,
            message,
            field: field.to_owned(),
            document: Document::File,
            help: Some(help.to_owned()),
            source: Arc::clone(source),
            span: None,
            told_at: None,
        }
    }

    /// Name of the file.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.source.name
    }

    /// Line and column, counted from 1; `None` when the file could not be read.
    #[must_use]
    pub fn position(&self) -> Option<(usize, usize)> {
        self.span.as_ref().map(|span| self.source.position(span.start))
    }

    /// The diagnostic with an excerpt of the file, for people; with ANSI colours if `color`.
    #[must_use]
    pub fn render(&self, color: bool) -> String {
        let theme = match color {
            true => miette::GraphicalTheme::unicode(),
            false => miette::GraphicalTheme::unicode_nocolor(),
        };
        let mut text = String::new();
        let handler = miette::GraphicalReportHandler::new_themed(theme)
            .with_context_lines(1)
            .with_width(110);
        match handler.render_report(&mut text, &Excerpt(self)) {
            Ok(()) => text,
            // Drawing writes to a string; should it fail all the same, the words are what matters.
            Err(fmt::Error) => format!("{self}\n"),
        }
    }

    /// The diagnostic of another file, to be told where that is named.
    pub(super) fn told_at(mut self, place: usize) -> Self {
        self.told_at = Some(place);
        self
    }

    pub(super) fn sort_key(&self) -> (Document, usize) {
        let own = self.span.as_ref().map_or(0, |span| span.start);
        (self.document, self.told_at.unwrap_or(own))
    }

    /// Field and message, without the place.
    fn headline(&self) -> String {
        match self.field.is_empty() {
            true => self.message.clone(),
            false => format!("{}: {}", self.field, self.message),
        }
    }
}

/// A range that lies within `text` and on character boundaries, at least one character long where there is one.
fn clamp(text: &str, span: Range<usize>) -> Range<usize> {
    let floor = |mut at: usize| {
        at = at.min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let start = floor(span.start);
    let end = floor(span.end).max(start);
    match text[start..].chars().next() {
        Some(first) if end == start && first != '\n' => start..start + first.len_utf8(),
        _ => start..end,
    }
}

/// `file:line:column: field: message`, on one line.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.file())?;
        if let Some((line, column)) = self.position() {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.headline())?;
        if let Some(help) = &self.help {
            write!(f, " ({help})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostic {}

/// How miette sees it: the place stands in the frame of the excerpt and the help below, so the headline has neither.
#[derive(Debug)]
struct Excerpt<'a>(&'a Diagnostic);

impl fmt::Display for Excerpt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.span.is_none() {
            write!(f, "{}: ", self.0.file())?;
        }
        f.write_str(&self.0.headline())
    }
}

impl std::error::Error for Excerpt<'_> {}

impl miette::Diagnostic for Excerpt<'_> {
    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.0.severity {
            Severity::Error => miette::Severity::Error,
            Severity::Warning => miette::Severity::Warning,
        })
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.0
            .help
            .as_ref()
            .map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        self.0.span.as_ref().map(|_| self.0 as &dyn miette::SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = miette::LabeledSpan> + '_>> {
        let span = self.0.span.clone()?;
        let label = miette::LabeledSpan::new(None, span.start, span.len());
        Some(Box::new(std::iter::once(label)))
    }
}

impl miette::SourceCode for Diagnostic {
    fn read_span<'a>(
        &'a self,
        span: &miette::SourceSpan,
        before: usize,
        after: usize,
    ) -> Result<Box<dyn miette::SpanContents<'a> + 'a>, miette::MietteError> {
        let contents = self.source.text.read_span(span, before, after)?;
        Ok(Box::new(miette::MietteSpanContents::new_named(
            self.source.name.clone(),
            contents.data(),
            *contents.span(),
            contents.line(),
            contents.column(),
            contents.line_count(),
        )))
    }
}

/// Why a configuration was not accepted: everything that is wrong with it, in the order of the file.
#[derive(Clone, Debug)]
pub struct ConfigErrors {
    /// At least one.
    pub errors: Vec<Diagnostic>,
    pub warnings: Vec<Diagnostic>,
}

/// Mistakes that are drawn with their excerpt; of the others a line is told.
const MAX_DRAWN: usize = 200;

impl ConfigErrors {
    /// All errors, then all warnings, with excerpts.
    #[must_use]
    pub fn render(&self, color: bool) -> String {
        let all = || self.errors.iter().chain(&self.warnings);
        let mut text: String = all()
            .take(MAX_DRAWN)
            .map(|diagnostic| diagnostic.render(color))
            .collect();
        // An excerpt is looked for from the file's start: thousands of them would take minutes.
        for diagnostic in all().skip(MAX_DRAWN) {
            text.push_str(&format!("  × {diagnostic}\n"));
        }
        text
    }
}

/// One line for each error.
impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}
