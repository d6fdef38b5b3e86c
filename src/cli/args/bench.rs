//! `host bench`: what is measured, how, and where it goes.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Args;

use crate::{bench::row::Group, terminal::Form};

#[derive(Args, Debug)]
#[command(
    long_about = "Measures how fast this machine is with a host, and what of that is the host's part: beside each row the bare thing \
        is measured in the same run, and the ratio of both is printed.\n\n\
        It starts all it needs by itself: a NATS server, hosts of this binary, and an actor that comes with it. They lie in a \
        temporary directory, and nothing of them is left at the end. Hosts that run here are not touched, but they take their \
        part of the machine, as everything that runs does.\n\n\
        The groups: `parts` of a call on one core (signature, token, message), `guest` (wasmtime alone, within limits, through \
        the router), `calls` of a client that signs each of them beside plain NATS, `hosts` (from host to host), `http` (beside \
        bare hyper, and `wasmtime serve` if there is one on the path or named by WASMTIME), and `open`: some of these at a \
        constant rate, timed from when each call was due, so that no pause of a server stays unseen. In the other groups callers \
        call again as soon as they have their answer.\n\n\
        Rounds of all rows take turns. Rates are medians of the rounds, times are of all calls. Without groups all are measured; \
        with --soak or --idle only these, unless groups are named as well.",
    after_help = "Examples:\n  \
        host bench                                 everything, about ten minutes\n  \
        host bench hosts http --rounds 3           two groups\n  \
        host bench calls --actor ./my_s.wasm       an actor of yours\n  \
        host bench open --rate 5000 -o json\n  \
        host bench --soak 10m                      memory and times over ten minutes\n  \
        host bench all --soak 10m --idle --write . everything, as BENCHMARKS.md with plots\n\n\
        Exit codes: 0 measured; 1 something could not be started or measured, or a signal ended it; 2 usage."
)]
pub struct Bench {
    /// The groups to measure: parts, guest, calls, hosts, http, open, or all
    #[arg(value_name = "GROUP", value_enum)]
    pub groups: Vec<Choice>,
    /// Call this waPC actor or component, signed or not, instead of the built-in one
    #[arg(long, value_name = "FILE")]
    pub actor: Option<PathBuf>,
    /// Rounds of each row
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub rounds: u16,
    /// Length of a round
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = seconds)]
    pub seconds: f64,
    /// Calls in work at a time; the highest counts where only one number is measured
    #[arg(
        long,
        value_name = "N,...",
        value_delimiter = ',',
        default_value = "1,16,64",
        value_parser = clap::value_parser!(u16).range(1..=1024)
    )]
    pub concurrency: Vec<u16>,
    /// Calls per second of the group `open`
    #[arg(long, value_name = "N", default_value = "1000", value_parser = rate)]
    pub rate: f64,
    /// Call from host to host for this long (30s, 10m, 2h), and see whether memory and times stay
    /// flat
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub soak: Option<Duration>,
    /// See how much memory so many actors of one module and so many of different ones take
    #[arg(long, value_name = "N,M", num_args = 0..=1, default_missing_value = "1000,200", value_parser = amounts)]
    pub idle: Option<(u32, u32)>,
    /// Also write BENCHMARKS.md with plots into this directory
    #[arg(long, value_name = "DIR")]
    pub write: Option<PathBuf>,
    #[command(flatten)]
    pub form: Form,
    #[arg(long, hide = true, num_args = 2, value_names = ["ADDRESS", "FILE"])]
    pub bare_nats: Option<Vec<String>>,
    #[arg(long, hide = true, value_name = "ADDRESS")]
    pub bare_http: Option<SocketAddr>,
}

/// A group, or all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Choice {
    /// Parts of a call: signature, token, message
    Parts,
    /// A call of the guest: wasmtime alone, within limits, through the router
    Guest,
    /// Calls of a client that signs each of them
    Calls,
    /// Calls from host to host
    Hosts,
    /// HTTP requests to an actor on the host that serves them
    Http,
    /// All of these at a constant rate
    Open,
    /// Everything
    All,
}

impl Bench {
    /// Returns the groups that are meant, in the order of the results.
    pub fn wanted(&self) -> Vec<Group> {
        let is_all = match self.groups.is_empty() {
            true => self.soak.is_none() && self.idle.is_none(),
            false => self.groups.contains(&Choice::All),
        };
        let is_wanted = |group: &Group| {
            is_all || self.groups.iter().any(|choice| choice.group() == Some(*group))
        };
        Group::ALL.into_iter().filter(is_wanted).collect()
    }
}

impl Choice {
    fn group(self) -> Option<Group> {
        Some(match self {
            Self::Parts => Group::Parts,
            Self::Guest => Group::Guest,
            Self::Calls => Group::Calls,
            Self::Hosts => Group::Hosts,
            Self::Http => Group::Http,
            Self::Open => Group::Open,
            Self::All => return None,
        })
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    within(text, 0.05, 3600.0, "seconds")
}

fn rate(text: &str) -> Result<f64, String> {
    within(text, 1.0, 1e7, "calls per second")
}

fn within(text: &str, least: f64, most: f64, unit: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| format!("{text:?} is no number of {unit} from {least} to {most}"))
}

fn time(text: &str) -> Result<Duration, String> {
    let span = crate::clock::span(text).and_then(|span| Duration::try_from(span).ok());
    span.filter(|span| !span.is_zero()).ok_or_else(|| {
        format!("{text:?} is no time: write a number with a unit, like 30s, 10m or 2h")
    })
}

/// Reads the numbers of actors of one module and of different ones.
fn amounts(text: &str) -> Result<(u32, u32), String> {
    let numbers = text.split_once(',').and_then(|(same, different)| {
        Some((same.trim().parse::<u32>().ok()?, different.trim().parse::<u32>().ok()?))
    });
    let most = 100_000;
    numbers
        .filter(|(same, different)| (1..=most).contains(same) && (1..=most).contains(different))
        .ok_or_else(|| format!("{text:?} is no pair of numbers from 1 to {most}, like 1000,200"))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn parsed(line: &str) -> Result<Bench, clap::Error> {
        match Cli::try_parse_from(line.split(' '))?.command {
            Some(Command::Bench(bench)) => Ok(*bench),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn groups_are_those_named_or_all_unless_something_else_is_wanted() {
        for (line, groups) in [
            ("host bench", &Group::ALL[..]),
            ("host bench http calls", &[Group::Calls, Group::Http]),
            ("host bench --soak 10m", &[]),
            ("host bench --idle", &[]),
            ("host bench all --idle 10,5", &Group::ALL),
        ] {
            assert_eq!(parsed(line).unwrap().wanted(), groups, "{line}");
        }
        let bench = parsed("host bench --soak 90s --idle --concurrency 1,8").unwrap();
        assert_eq!(bench.soak, Some(Duration::from_secs(90)));
        assert_eq!((bench.idle, bench.concurrency), (Some((1000, 200)), vec![1, 8]));
    }

    #[test]
    fn what_cannot_be_measured_is_refused() {
        for line in [
            "host bench nosuch",
            "host bench --rounds 0",
            "host bench --seconds 0",
            "host bench --rate 0",
            "host bench --soak 0s",
            "host bench --soak ten",
            "host bench --idle 0,1",
            "host bench --concurrency 0",
        ] {
            assert!(parsed(line).is_err(), "{line}");
        }
    }
}
