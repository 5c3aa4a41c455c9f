//! The daemon's objects.

use crate::cli::{Exit, Failure, Global, global};
use crate::client::{Client, Query, parse};
use crate::config::Kind;
use crate::wire::{
    ErrorBody, ErrorCode, MonitorTest, MonitorTestQuery, Object, ObjectText, Objects, Operand, Problem,
    Status,
};
use hyper::Method;
use serde::Deserialize;
use serde_json::Value;

/// Any well-formed id of an account or a zone means the node.
const TENANT: &str = "00000000000000000000000000000000";

/// The objects of one kind.
pub(super) struct Remote {
    pub kind: Kind,
    client: Client,
}

/// Why a text is not in force.
#[derive(Debug)]
pub(super) enum Refused {
    /// It is wrong, and can be mended.
    Invalid {
        message: String,
        problems: Vec<Problem>,
    },
    /// Somebody else has changed the object meanwhile.
    Changed(Failure),
    Failed(Failure),
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Refused {
    /// As the end of a command; `file` is what the text is called.
    pub fn into_failure(self, file: &str) -> Failure {
        match self {
            Self::Invalid { message, problems } => {
                let lines = problems.into_iter().map(|problem| {
                    let problem = Problem {
                        file: file.to_owned(),
                        ..problem
                    };
                    format!("\n{problem}")
                });
                Failure::new(Exit::Configuration, message + &lines.collect::<String>())
            }
            Self::Changed(failure) | Self::Failed(failure) => failure,
        }
    }
}

impl Remote {
    pub fn new(kind: Kind, global: &Global) -> Result<Self, Failure> {
        let client = global.client()?;
        Ok(Self { kind, client })
    }

    /// The same daemon's objects of another kind.
    pub fn of(&self, kind: Kind) -> Self {
        Self {
            kind,
            client: self.client.clone(),
        }
    }

    pub fn list(&self) -> Result<Vec<Object>, Failure> {
        let Objects { objects } = global::wait(self.client.fetch(Method::GET, &self.path(&[])))?;
        Ok(objects)
    }

    pub fn show(&self, name: &str) -> Result<Object, Failure> {
        global::wait(self.client.fetch(Method::GET, &self.path(&[name])))
    }

    pub fn status(&self) -> Result<Status, Failure> {
        global::wait(self.client.fetch(Method::GET, &Query::new("/api/v1/status")))
    }

    /// Makes an object of a text.
    pub fn create(&self, toml: &str) -> Result<Object, Refused> {
        self.declare(Method::POST, &self.path(&[]), toml, None)
    }

    /// Puts what a text says in the place of an object as it was shown.
    pub fn replace(&self, shown: &Object, toml: &str) -> Result<Object, Refused> {
        let etag = Some(shown.etag.clone());
        self.declare(Method::PUT, &self.path(&[&shown.id]), toml, etag)
    }

    fn declare(
        &self,
        method: Method,
        query: &Query,
        toml: &str,
        etag: Option<String>,
    ) -> Result<Object, Refused> {
        let text = ObjectText {
            toml: toml.to_owned(),
            etag,
        };
        let body = json(&text)?;
        let (status, answer) = global::wait(self.client.answer_json(method, query, body))?;
        if status.is_success() {
            return Ok(parse(&answer)?);
        }
        let failure = crate::client::refusal(status, &answer);
        match serde_json::from_slice::<ErrorBody>(&answer) {
            Ok(ErrorBody { error }) if error.code == ErrorCode::ConfigurationInvalid => {
                Err(Refused::Invalid {
                    message: error.message,
                    problems: error.problems,
                })
            }
            Ok(ErrorBody { error })
                if error.code == ErrorCode::Conflict && error.field.as_deref() == Some("etag") =>
            {
                Err(Refused::Changed(failure))
            }
            _ => Err(Refused::Failed(failure)),
        }
    }

    /// Makes an object of a body in JSON, as Cloudflare's clients do.
    pub fn create_json(&self, body: String) -> Result<Object, Failure> {
        #[derive(Deserialize)]
        struct Envelope {
            result: Made,
        }
        #[derive(Deserialize)]
        struct Made {
            id: String,
        }
        let query = Query::new(&cloudflare_base(self.kind));
        let answer = global::wait(self.client.send_json(Method::POST, &query, body))?;
        let Envelope { result } = parse(&answer)?;
        self.show(&result.id)
    }

    /// Deletes an object, and returns what it was.
    pub fn delete(&self, name: &str) -> Result<Object, Failure> {
        let object = self.show(name)?;
        let query = Query::below(&cloudflare_base(self.kind), &[&object.id]);
        global::wait(self.client.call(Method::DELETE, &query))?;
        Ok(object)
    }

    /// Does something to what `path` leads to.
    pub fn operate(&self, path: &[&str], operand: &Operand) -> Result<Object, Failure> {
        let body = json(operand)?;
        let answer = global::wait(self.client.send_json(Method::POST, &self.path(path), body))?;
        parse(&answer)
    }

    /// Has a monitor run once.
    pub fn test(&self, name: &str, query: &MonitorTestQuery) -> Result<MonitorTest, Failure> {
        let path = self.path(&[name, "test"]);
        let answer = self.client.send_json(Method::POST, &path, json(query)?);
        parse(&global::wait(answer)?)
    }

    fn path(&self, segments: &[&str]) -> Query {
        Query::below(&format!("/api/v1/{}", self.kind.table()), segments)
    }
}

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>, Failure> {
    serde_json::to_vec(value)
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot write JSON: {error}")))
}

/// Where Cloudflare's API has objects of a kind.
fn cloudflare_base(kind: Kind) -> String {
    let of_account = |rest: &str| format!("/client/v4/accounts/{TENANT}/load_balancers{rest}");
    match kind {
        Kind::Monitor => of_account("/monitors"),
        Kind::MonitorGroup => of_account("/monitor_groups"),
        Kind::Pool => of_account("/pools"),
        Kind::LoadBalancer => of_account(""),
        Kind::Application => format!("/client/v4/zones/{TENANT}/spectrum/apps"),
    }
}

/// An origin of a pool.
pub(super) fn origin<'o>(pool: &'o Object, name: &str) -> Option<&'o Value> {
    origins(pool).find(|origin| origin["name"] == name)
}

/// The origins of a pool.
pub(super) fn origins(pool: &Object) -> impl Iterator<Item = &Value> {
    pool.object["origins"].as_array().into_iter().flatten()
}
