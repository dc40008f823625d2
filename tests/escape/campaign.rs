//! The campaign: every attempt first where it must succeed, then behind egress-init.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{
    attempts::{self, Attempt, Context, Evidence, Ground, Launch, Said},
    judge::{Start, Verdict, belongs, judge},
    sniffer::Frame,
    stage::{Configuration, Entry, Runner, Stage, Way},
    token::Token,
};

/// One attempt in the table.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    pub theme: String,
    pub name: String,
    /// How the control got out, or why no control does.
    pub control: Result<String, String>,
    /// What came of it in each configuration.
    pub results: BTreeMap<String, Outcome>,
}

/// What came of an attempt behind egress-init.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// What the attempt itself was told.
    pub said: String,
    /// What got out, or what it got hold of.
    pub escaped: Vec<String>,
    /// Octets of its choice in what section 6 lets every host say to its neighbours, and in how
    /// many packets.
    pub carried: (usize, usize),
    /// Lookups for the listed name, of types of its choice.
    #[serde(default)]
    pub asked: usize,
    /// Not tried in this configuration, and why.
    pub left_out: Option<String>,
}

/// An attempt with what tells it apart from all others.
struct Numbered {
    attempt: Attempt,
    index: u16,
}

impl Numbered {
    fn context(&self, run: &str) -> Context {
        Context {
            name: self.attempt.name.clone(),
            token: Token::of(&self.attempt.name, run).text(),
            port: 20_000 + self.index,
        }
    }
}

fn numbered(names: Vec<String>) -> Vec<Numbered> {
    names
        .into_iter()
        .zip(2_000..)
        .map(|(name, index)| Numbered {
            attempt: attempts::enumerated(name),
            index,
        })
        .collect()
}

/// All attempts of a run, with what is known of each.
pub struct Campaign<'a> {
    stage: &'a Stage,
    attempts: Vec<Numbered>,
    sockets: Vec<Numbered>,
    /// Not where single attempts are picked.
    with_sockets: bool,
    rows: BTreeMap<String, Row>,
    order: Vec<String>,
}

impl<'a> Campaign<'a> {
    pub fn new(stage: &'a Stage, is_long: bool, only: &[String]) -> Self {
        let attempts = attempts::all()
            .into_iter()
            .filter(|attempt| is_long || !attempt.is_long)
            .filter(|attempt| {
                only.is_empty() || only.iter().any(|part| attempt.name.contains(part.as_str()))
            })
            .zip(1..)
            .map(|(attempt, index)| Numbered { attempt, index })
            .collect();
        Self {
            stage,
            attempts,
            sockets: Vec::new(),
            with_sockets: only.is_empty(),
            rows: BTreeMap::new(),
            order: Vec::new(),
        }
    }

    pub fn rows(self) -> Vec<Row> {
        let mut rows = self.rows;
        self.order
            .iter()
            .filter_map(|name| rows.remove(name))
            .collect()
    }

    /// Takes every control for granted: for plants, which come after a run with controls.
    pub fn assume(&mut self) {
        self.stage.clear();
        if self.with_sockets {
            let mut runner = self.stage.runner(&Way::Open { root: true });
            self.sockets = numbered(runner.scan());
        }
        let attempts = std::mem::take(&mut self.attempts);
        let sockets = std::mem::take(&mut self.sockets);
        for numbered in attempts.iter().chain(&sockets) {
            let name = &numbered.attempt.name;
            let control = if name.starts_with(attempts::SCAN) && attempts::stays_here(name) {
                Err("nothing sent through it can be on a link".to_owned())
            } else {
                Ok("assumed".to_owned())
            };
            self.record(numbered, control);
            self.order.push(name.clone());
        }
        (self.attempts, self.sockets) = (attempts, sockets);
    }

    /// Every attempt where it must succeed.
    pub fn controls(&mut self) {
        self.stage.clear();
        let mut runners = [false, true].map(|root| self.stage.runner(&Way::Open { root }));
        if self.with_sockets {
            self.sockets = numbered(runners[1].scan());
        }
        let attempts = std::mem::take(&mut self.attempts);
        for numbered in attempts
            .iter()
            .filter(|n| n.attempt.ground == Ground::Rules)
        {
            let control = self.open_control(numbered, &mut runners);
            self.record(numbered, control);
        }
        let sockets = std::mem::take(&mut self.sockets);
        self.socket_controls(&sockets, &mut runners);
        drop(runners);
        self.stage.enforce();
        let mut runners = [false, true].map(|root| self.stage.runner(&Way::Open { root }));
        for numbered in attempts
            .iter()
            .filter(|n| n.attempt.ground == Ground::Privileges)
        {
            let control = self.fenced_control(numbered, &mut runners);
            self.record(numbered, control);
        }
        // In the order of the list, whatever the order of the controls.
        self.order = attempts
            .iter()
            .chain(&sockets)
            .map(|numbered| numbered.attempt.name.clone())
            .collect();
        (self.attempts, self.sockets) = (attempts, sockets);
    }

    fn record(&mut self, numbered: &Numbered, control: Result<String, String>) {
        let attempt = &numbered.attempt;
        self.rows.insert(
            attempt.name.clone(),
            Row {
                theme: attempt.theme.to_owned(),
                name: attempt.name.clone(),
                control,
                results: BTreeMap::new(),
            },
        );
    }

    fn open_control(
        &self,
        numbered: &Numbered,
        runners: &mut [Runner; 2],
    ) -> Result<String, String> {
        let mut reason = String::new();
        for (runner, who) in runners.iter_mut().zip(["user", "root"]) {
            let context = numbered.context(&format!("open {who}"));
            let _ = self.stage.sniffer.take();
            let said = match numbered.attempt.launch {
                Launch::Shared => runner.run(std::slice::from_ref(&context)),
                Launch::Own(heirloom) => {
                    let way = Way::Open {
                        root: who == "root",
                    };
                    self.stage
                        .own(&way, heirloom, &context, || {})
                        .map(|said| vec![said])
                }
            };
            let said = only(said, &context);
            if self.got_through(&numbered.attempt, &context, &said) {
                return Ok(format!("no firewall, {who}"));
            }
            reason = why(&said);
        }
        Err(reason)
    }

    /// All of them in a few processes: there are hundreds.
    fn socket_controls(&mut self, sockets: &[Numbered], runners: &mut [Runner; 2]) {
        for (number, chunk) in sockets.chunks(150).enumerate() {
            let run = format!("sockets {number}");
            let mut through: BTreeMap<String, String> = BTreeMap::new();
            for (runner, who) in runners.iter_mut().zip(["user", "root"]) {
                let contexts: Vec<_> = chunk
                    .iter()
                    .map(|numbered| numbered.context(&format!("{run} {who}")))
                    .collect();
                let _ = self.stage.sniffer.take();
                let said = runner.run(&contexts).unwrap_or_default();
                let frames = self.stage.sniffer.take();
                for ((numbered, context), said) in chunk.iter().zip(&contexts).zip(said) {
                    let evident = match numbered.attempt.evidence {
                        Evidence::Frame => has(&frames, context),
                        _ => said.ok,
                    };
                    if evident {
                        through
                            .entry(said.name)
                            .or_insert_with(|| format!("no firewall, {who}"));
                    }
                }
            }
            for numbered in chunk {
                let name = &numbered.attempt.name;
                let control = if attempts::stays_here(name) {
                    Err("nothing sent through it can be on a link".to_owned())
                } else {
                    through
                        .get(name)
                        .cloned()
                        .ok_or_else(|| "the kernel makes the socket and sends nothing".to_owned())
                };
                self.record(numbered, control);
            }
        }
    }

    fn fenced_control(
        &self,
        numbered: &Numbered,
        runners: &mut [Runner; 2],
    ) -> Result<String, String> {
        let mut reason = String::new();
        for (number, who) in ["user", "root"].into_iter().enumerate() {
            let context = numbered.context(&format!("privileged {who}"));
            let before = self.stage.snapshot();
            let _ = self.stage.sniffer.take();
            let said = runners[number].run(std::slice::from_ref(&context));
            let said = only(said, &context);
            let difference = before.differs(&self.stage.snapshot());
            let through = match numbered.attempt.evidence {
                Evidence::State => difference.is_some(),
                _ => self.got_through(&numbered.attempt, &context, &said),
            };
            let differs = difference.is_some();
            if through || differs {
                self.stage.clear();
                self.stage.enforce();
            }
            if through {
                // It may have ended its neighbour, or itself.
                runners[number] = self.stage.runner(&Way::Open { root: number == 1 });
                return Ok(match who {
                    "user" => "behind the rules, user with a way to privileges".to_owned(),
                    _ => "behind the rules, root".to_owned(),
                });
            }
            reason = why(&said);
        }
        Err(reason)
    }

    fn got_through(&self, attempt: &Attempt, context: &Context, said: &Said) -> bool {
        match attempt.evidence {
            Evidence::Frame => has(&self.stage.sniffer.take(), context),
            Evidence::Hold => said.ok,
            Evidence::State => false,
        }
    }

    /// Every attempt whose control got out, behind egress-init. `plant` weakens what a start has
    /// left; it is called after each start.
    pub fn fenced(
        &mut self,
        configuration: &Configuration,
        way: &Way,
        plant: &dyn Fn(&mut Option<Runner>),
    ) -> Vec<String> {
        let mut notes = Vec::new();
        self.stage.clear();
        let _ = self.stage.sniffer.take();
        let own = match configuration.by {
            _ if configuration.is_proxy => Start::Running,
            Entry::Apply => Start::System,
            _ => Start::Over,
        };
        let mut runner = Some(self.start(way));
        let stray = self.strays(Start::Running).escaped;
        if !stray.is_empty() {
            notes.push(format!("during the start: {}", some_of(stray)));
        }
        plant(&mut runner);
        let mut before = self.stage.snapshot();
        self.ground(&mut runner);
        let attempts = std::mem::take(&mut self.attempts);
        for numbered in &attempts {
            let attempt = &numbered.attempt;
            if self.rows[&attempt.name].control.is_err() {
                continue;
            }
            let mut outcome = Outcome::default();
            if attempt.needs_user && !configuration.as_user {
                outcome.left_out = Some("uid 0 owns it: the start says so".to_owned());
            } else {
                let context = numbered.context(configuration.name);
                let began = Instant::now();
                let late = self.strays(own).escaped;
                if !late.is_empty() {
                    notes.push(format!("before {}: {}", attempt.name, some_of(late)));
                }
                let said = match attempt.launch {
                    Launch::Shared => runner
                        .as_mut()
                        .and_then(|runner| runner.run(std::slice::from_ref(&context))),
                    Launch::Own(heirloom) => {
                        // A keeper lets no other start into its namespace.
                        if configuration.is_proxy {
                            drop(runner.take());
                        }
                        let said = self.stage.own(way, heirloom, &context, || plant(&mut None));
                        said.map(|said| vec![said])
                    }
                };
                let is_alive = said.is_some();
                let said = only(said, &context);
                let strays = self.strays(own);
                if attempt.launch != Launch::Shared {
                    if configuration.is_proxy {
                        self.stage.clear();
                        runner = Some(self.start(way));
                        plant(&mut runner);
                        let _ = self.stage.sniffer.take();
                    }
                    before = self.stage.snapshot();
                }
                if said.said == attempts::NO_SUPERVISOR {
                    outcome.left_out = Some("process 1 is the command itself".to_owned());
                }
                outcome.said = said.said.clone();
                outcome.escaped = strays.escaped;
                outcome.carried = strays.carried;
                outcome.asked = strays.asked;
                self.hold_to_the_rate(&mut outcome, began.elapsed());
                if attempt.evidence == Evidence::Hold && said.ok {
                    outcome.escaped.push("it got hold of it".to_owned());
                }
                if let Some(difference) = before.differs(&self.stage.snapshot()) {
                    outcome.escaped.push(difference);
                    drop(runner.take());
                    self.stage.clear();
                    runner = Some(self.start(way));
                    plant(&mut runner);
                    before = self.stage.snapshot();
                } else if !is_alive {
                    drop(runner.take());
                    runner = Some(self.start(way));
                    plant(&mut runner);
                    before = self.stage.snapshot();
                }
            }
            self.result(&attempt.name, configuration, outcome);
        }
        self.attempts = attempts;
        self.sockets_fenced(configuration, own, &mut runner);
        // What the kernel sends later on its own.
        std::thread::sleep(Duration::from_millis(1100));
        let late = self.strays(own).escaped;
        if !late.is_empty() {
            notes.push(format!("after the last attempt: {}", some_of(late)));
        }
        notes
    }

    fn start(&self, way: &Way) -> Runner {
        if matches!(way, Way::Instead(_)) {
            self.stage.enforce();
        }
        self.stage.runner(way)
    }

    /// What is allowed works, or that nothing else arrives would say nothing.
    fn ground(&self, runner: &mut Option<Runner>) {
        let context = Context {
            name: attempts::GROUND.to_owned(),
            token: Token([0x2a; 8]).text(),
            port: 443,
        };
        let said = runner.as_mut().and_then(|runner| runner.run(&[context]));
        let said = said.and_then(|said| said.into_iter().next());
        assert!(
            said.as_ref().is_some_and(|said| said.ok),
            "what is allowed does not work: {said:?}"
        );
    }

    fn sockets_fenced(
        &mut self,
        configuration: &Configuration,
        own: Start,
        runner: &mut Option<Runner>,
    ) {
        let sockets = std::mem::take(&mut self.sockets);
        let tried: Vec<_> = sockets
            .iter()
            .filter(|numbered| self.rows[&numbered.attempt.name].control.is_ok())
            .collect();
        for chunk in tried.chunks(150) {
            let contexts: Vec<_> = chunk
                .iter()
                .map(|numbered| numbered.context(configuration.name))
                .collect();
            let _ = self.stage.sniffer.take();
            let said = runner.as_mut().and_then(|runner| runner.run(&contexts));
            let said = said.unwrap_or_default();
            assert_eq!(said.len(), contexts.len(), "some attempts did not end");
            let frames: Vec<_> = self.stage.sniffer.take();
            let escapes: Vec<_> = frames
                .iter()
                .filter_map(|frame| match judge(frame, own) {
                    Verdict::Escape(what) => Some((frame, what)),
                    _ => None,
                })
                .collect();
            let mut unclaimed: Vec<String> = escapes
                .iter()
                .filter(|(frame, _)| !contexts.iter().any(|context| is_of(frame, context)))
                .map(|(_, what)| what.clone())
                .collect();
            for ((numbered, context), said) in chunk.iter().zip(&contexts).zip(said) {
                let mut outcome = Outcome {
                    said: said.said,
                    ..Outcome::default()
                };
                outcome.escaped = escapes
                    .iter()
                    .filter(|(frame, _)| is_of(frame, context))
                    .map(|(_, what)| what.clone())
                    .collect();
                // Nobody knows whose they are; that they are here is what counts.
                outcome.escaped.append(&mut unclaimed);
                if numbered.attempt.evidence == Evidence::Hold && said.ok {
                    outcome
                        .escaped
                        .push("the kernel made the socket".to_owned());
                }
                self.result(&numbered.attempt.name, configuration, outcome);
            }
        }
        self.sockets = sockets;
    }

    fn result(&mut self, name: &str, configuration: &Configuration, mut outcome: Outcome) {
        outcome.escaped.dedup();
        outcome.escaped.truncate(4);
        if let Some(row) = self.rows.get_mut(name) {
            row.results.insert(configuration.name.to_owned(), outcome);
        }
    }

    /// What arrived that must not have, and what was carried by what may.
    fn strays(&self, start: Start) -> Strays {
        let mut strays = Strays::default();
        for frame in self.stage.sniffer.take() {
            match judge(&frame, start) {
                Verdict::Allowed => {}
                Verdict::Carried(count) => {
                    strays.carried.0 += count;
                    strays.carried.1 += 1;
                }
                Verdict::Asked => strays.asked += 1,
                Verdict::Escape(what) => strays.escaped.push(what),
            }
        }
        strays
    }

    /// Section 6 lets neighbours hear twenty packets a second, and fifty at once; the resolver asks
    /// for types of the command's choice twenty times a second, and a hundred times at once.
    fn hold_to_the_rate(&self, outcome: &mut Outcome, elapsed: Duration) {
        let limit = |burst: f64| burst + 20.0 * (elapsed.as_secs_f64() + 0.5);
        let (_, packets) = outcome.carried;
        if packets as f64 > limit(50.0) {
            outcome.escaped.push(format!(
                "{packets} reports to the link, more than the rate allows"
            ));
        }
        if outcome.asked as f64 > limit(100.0) {
            outcome.escaped.push(format!(
                "{} lookups of types of its choice, more than the rate allows",
                outcome.asked
            ));
        }
    }
}

/// What arrived since this was last asked.
#[derive(Default)]
struct Strays {
    escaped: Vec<String>,
    /// Octets and packets.
    carried: (usize, usize),
    asked: usize,
}

/// As much of a list as a line has room for.
fn some_of(mut strays: Vec<String>) -> String {
    let count = strays.len();
    strays.dedup();
    strays.truncate(4);
    format!("{count} packets: {}", strays.join(", "))
}

/// The outcome of an attempt that ran alone.
fn only(said: Option<Vec<Said>>, context: &Context) -> Said {
    said.and_then(|said| said.into_iter().next())
        .unwrap_or_else(|| Said {
            name: context.name.clone(),
            ok: false,
            said: "it was ended".to_owned(),
        })
}

/// Why a control did not get out.
fn why(said: &Said) -> String {
    if said.ok {
        "the kernel takes it, and nothing leaves".to_owned()
    } else {
        said.said.clone()
    }
}

fn is_of(frame: &Frame, context: &Context) -> bool {
    let token = Token::from_text(&context.token).unwrap();
    belongs(frame, &token.forms(), context)
}

/// Whether anything of an attempt is among these.
fn has(frames: &[Frame], context: &Context) -> bool {
    let token = Token::from_text(&context.token).unwrap();
    let forms = token.forms();
    frames.iter().any(|frame| belongs(frame, &forms, context))
}
