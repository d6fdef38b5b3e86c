//! The streams of the lattice: the metadata bucket, and the object store for large payloads.

use serde_json::Value;

use super::{
    Finding, Found,
    facts::Facts,
    jetstream::{Api, Stream, is_open},
};
use lattice_base::store::jetstream::is_clustered;

/// The metadata bucket: is it as the protocol wants it, does it outlive a server, can it be used.
pub(super) fn bucket(facts: &Facts) -> Found {
    let jetstream = facts.jetstream.as_ref().map_err(Finding::skipped)?;
    let stream = &jetstream.bucket;
    let hosts = facts.lattice.as_ref().map_or(0, |seen| seen.hosts.len());
    let info = match &stream.info {
        Api::Answer(info) => info,
        info if !jetstream.asked.is_there() => {
            return Err(Finding::skipped(format!("JetStream {} (jetstream)", info.words())));
        }
        info if info.is_missing() && hosts == 0 => {
            return Ok(vec![Finding::note(format!(
                "{} is not there yet; the first host makes it",
                stream.name
            ))]);
        }
        info if info.is_missing() => {
            return Ok(vec![Finding::wrong(
                format!(
                    "{} is not there although {hosts} hosts run: they keep their metadata elsewhere, or nowhere",
                    stream.name
                ),
                "see the checks domains and metadata; a host makes the bucket when it starts, or its log says why not. Where \
                 the account demands a bound of every bucket, kv_max_bytes sets it",
            )]);
        }
        info => {
            return Ok(vec![Finding::wrong(
                format!("the bucket {} {}", stream.name, info.words()),
                "see the check permissions",
            )]);
        }
    };
    let mut found = settings(info, &stream.name);
    let members = facts.server.as_ref().map_or(0, |server| server.members);
    found.extend(copies(info, &stream.name, members));
    found.extend(usable(stream));
    if found.is_empty() {
        let messages = info["state"]["messages"].as_u64().unwrap_or_default();
        let replicas = info["config"]["num_replicas"].as_u64().unwrap_or(1);
        let copies =
            if replicas == 1 { "one copy".to_owned() } else { format!("{replicas} copies") };
        found.push(Finding::ok(format!(
            "{} with {messages} entries, {copies}, can be read and written",
            stream.name
        )));
    }
    Ok(found)
}

/// Compares with the protocol; what hosts of other years made differently and works is not worth a
/// word.
fn settings(info: &Value, name: &str) -> Vec<Finding> {
    let wrong = wrong_settings(&info["config"], name).into_iter().filter(|(is_so, ..)| *is_so);
    let wrong =
        wrong.map(|(_, seen, fix)| Finding::wrong(format!("the bucket {name} {seen}"), fix));
    let doubtful = doubtful_settings(info, name).into_iter().filter(|(is_so, ..)| *is_so);
    let doubtful =
        doubtful.map(|(_, seen, fix)| Finding::warning(format!("the bucket {name} {seen}"), fix));
    wrong.chain(doubtful).collect()
}

/// Returns the settings that lose entries: whether one is so, what is seen, and the fix.
fn wrong_settings(config: &Value, name: &str) -> [(bool, String, String); 6] {
    let (max_age, max_entries) = (number(config, "max_age"), number(config, "max_msgs"));
    let retention = config["retention"].as_str().unwrap_or("limits");
    let expected = format!("$KV.{}.>", name.trim_start_matches("KV_"));
    let subjects = config["subjects"].as_array().into_iter().flatten();
    let subjects: Vec<&str> = subjects.filter_map(Value::as_str).collect();
    let is_mirror = config["mirror"].is_object();
    [
        (
            max_age > 0,
            format!(
                "forgets its entries after {} s: links and claims vanish",
                max_age / 1_000_000_000
            ),
            edit(name, "--max-age=0"),
        ),
        (
            max_entries > 0,
            format!(
                "is limited to {max_entries} entries: links and claims are refused or lost beyond that"
            ),
            edit(name, "--max-msgs=-1"),
        ),
        (
            retention != "limits",
            format!("has retention {retention}, and hosts read entries away from each other"),
            make_again(name),
        ),
        (config["sealed"] == true, "is sealed: nothing can be written".into(), make_again(name)),
        (
            !is_mirror && !subjects.contains(&&*expected),
            format!("has the subjects {subjects:?}, not {expected:?}"),
            make_again(name),
        ),
        (
            is_mirror,
            "is a mirror: what hosts write goes to another bucket".into(),
            make_again(name),
        ),
    ]
}

/// Returns the settings that may lose entries one day, in the same form.
fn doubtful_settings(info: &Value, name: &str) -> [(bool, &'static str, String); 5] {
    let config = &info["config"];
    // Some accounts demand a bound; one that is far away does no harm.
    let (max_bytes, bytes) = (number(config, "max_bytes"), number(&info["state"], "bytes"));
    [
        (
            config["storage"] == "memory",
            "is kept in memory: links and claims are lost when its server stops",
            make_again(name),
        ),
        (
            number(config, "max_msgs_per_subject") != 1,
            "keeps more than the last value of an entry",
            edit(name, "--max-msgs-per-subject=1"),
        ),
        (
            config["discard"] == "old",
            "discards old entries when it is full, rather than refusing new ones",
            edit(name, "--discard=new"),
        ),
        (
            max_bytes > 0 && bytes >= max_bytes / 10 * 8,
            "is nearly full: links and claims are refused when it is",
            edit(name, &format!("--max-bytes={}", max_bytes.saturating_mul(2))),
        ),
        (
            config["allow_direct"] != true,
            "does not allow direct reads",
            edit(name, "--allow-direct"),
        ),
    ]
}

fn number(values: &Value, member: &str) -> i64 {
    values[member].as_i64().unwrap_or_default()
}

fn edit(name: &str, option: &str) -> String {
    format!("nats stream edit {name} {option}")
}

fn make_again(name: &str) -> String {
    format!(
        "it cannot be changed: stop all hosts, `nats stream rm {name}`, start them; put the links again"
    )
}

/// Whether it outlives one of the servers. `members` are the servers that clients are told of.
fn copies(info: &Value, name: &str, members: usize) -> Vec<Finding> {
    let cluster = &info["cluster"];
    let replicas = info["config"]["num_replicas"].as_u64().unwrap_or(1);
    let mut found = Vec::new();
    let is_clustered = is_clustered(
        cluster["name"].as_str(),
        cluster["leader"].as_str(),
        cluster["replicas"].as_array().map_or(0, Vec::len),
    );
    if is_clustered && replicas < 2 {
        let size = if members > 1 {
            format!("a cluster of {members} servers")
        } else {
            "a cluster of servers".to_owned()
        };
        found.push(Finding::warning(
            format!("the bucket {name} has one copy in {size}: with that server links and claims go away"),
            format!("nats stream edit {name} --replicas 3; kv_replicas makes new buckets so"),
        ));
    }
    if is_clustered && replicas == 2 {
        found.push(Finding::note(format!(
            "the bucket {name} has two copies: when one is away, nothing can be written"
        )));
    }
    if is_clustered && cluster["leader"].as_str().is_none_or(str::is_empty) {
        found.push(Finding::wrong(
            format!("the bucket {name} has no leader: nothing can be written"),
            "start the servers again that have its copies; most of them must be there",
        ));
    }
    let behind = cluster["replicas"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|replica| replica["offline"] == true);
    let offline: Vec<&str> = behind.filter_map(|replica| replica["name"].as_str()).collect();
    if !offline.is_empty() {
        found.push(Finding::warning(
            format!("copies of the bucket {name} are offline: {}", offline.join(", ")),
            "start these servers again",
        ));
    }
    found
}

fn usable(stream: &Stream) -> Vec<Finding> {
    let ways = [("read", &stream.read), ("followed", &stream.follow), ("written", &stream.write)];
    let closed = ways
        .into_iter()
        .filter_map(|(what, answer)| Some((what, answer.as_ref()?)))
        .filter(|(_, a)| !is_open(a));
    let findings = closed.map(|(what, answer)| {
        Finding::wrong(
            format!(
                "the bucket {} cannot be {what} by this user: it {}",
                stream.name,
                answer.words()
            ),
            "if hosts use this login, allow it $JS.>, $KV.> and _INBOX.> in the NATS server; a user who only looks needs none of them",
        )
    });
    findings.collect()
}

/// The object store for large payloads, which is made when it is needed first.
pub(super) fn objects(facts: &Facts) -> Found {
    let jetstream = facts.jetstream.as_ref().map_err(Finding::skipped)?;
    let stream = &jetstream.objects;
    if !jetstream.asked.is_there() {
        return Err(Finding::skipped(format!("JetStream {} (jetstream)", stream.info.words())));
    }
    let info = match &stream.info {
        Api::Answer(info) => info,
        info if info.is_missing() => {
            return Ok(vec![Finding::ok(format!(
                "{} is made when the first large payload travels",
                stream.name
            ))]);
        }
        info => {
            return Ok(vec![Finding::wrong(
                format!("the object store {} {}", stream.name, info.words()),
                "if hosts or providers use this login, allow it $JS.> and $O.> in the NATS server; payloads above 900 KB need it",
            )]);
        }
    };
    let (config, used) = (&info["config"], info["state"]["bytes"].as_u64().unwrap_or_default());
    let max = config["max_bytes"].as_i64().unwrap_or(-1);
    Ok(vec![if config["sealed"] == true {
        Finding::wrong(
            format!(
                "the object store {} is sealed: payloads above 900 KB cannot travel",
                stream.name
            ),
            format!("nats stream rm {}; it is made again when it is needed", stream.name),
        )
    } else if max > 0 && u64::try_from(max).unwrap_or(u64::MAX) < used.saturating_mul(10) / 9 {
        Finding::warning(
            format!("the object store {} has {used} of {max} bytes in use", stream.name),
            format!("nats stream edit {} --max-bytes=-1", stream.name),
        )
    } else {
        Finding::ok(format!("{} holds {used} bytes of payloads on their way", stream.name))
    }])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::doctor::Verdict;

    const NAME: &str = "KV_LATTICEDATA_default";

    fn info(change: impl FnOnce(&mut Value)) -> Value {
        let mut info = json!({
            "config": {
                "subjects": ["$KV.LATTICEDATA_default.>"], "max_msgs_per_subject": 1, "retention": "limits", "discard": "new",
                "storage": "file", "num_replicas": 1, "allow_direct": true, "max_age": 0, "max_msgs": -1, "max_bytes": -1,
            },
            "cluster": { "leader": "up-1" },
        });
        change(&mut info);
        info
    }

    #[test]
    fn a_bucket_as_hosts_make_it_is_in_order() {
        assert_eq!(settings(&info(|_| {}), NAME), []);
        assert_eq!(copies(&info(|_| {}), NAME, 1), []);
    }

    #[test]
    fn settings_that_lose_entries_are_wrong() {
        for (member, value) in [
            ("max_age", json!(60_000_000_000_i64)),
            ("max_msgs", json!(10)),
            ("retention", json!("workqueue")),
            ("subjects", json!(["$KV.other.>"])),
            ("sealed", json!(true)),
        ] {
            let found = settings(&info(|info| info["config"][member] = value.clone()), NAME);
            assert!(
                matches!(found.as_slice(), [found] if found.verdict == Verdict::Wrong),
                "{member}: {found:?}"
            );
        }
        for (member, value) in [
            ("storage", json!("memory")),
            ("max_msgs_per_subject", json!(5)),
            ("discard", json!("old")),
        ] {
            let found = settings(&info(|info| info["config"][member] = value.clone()), NAME);
            assert!(
                matches!(found.as_slice(), [found] if found.verdict == Verdict::Warning),
                "{member}: {found:?}"
            );
        }
    }

    #[test]
    fn a_bound_that_an_account_demands_is_in_order_until_it_is_nearly_reached() {
        let bounded = |bytes: i64| {
            let bounded = info(|info| {
                info["config"]["max_bytes"] = json!(1000);
                info["state"] = json!({ "bytes": bytes });
            });
            settings(&bounded, NAME)
        };
        assert_eq!(bounded(700), []);
        let full = bounded(800);
        assert!(
            matches!(full.as_slice(), [found] if found.verdict == Verdict::Warning),
            "{full:?}"
        );
        assert!(full[0].fix.as_ref().unwrap().contains("--max-bytes=2000"));
    }

    #[test]
    fn a_server_that_is_called_a_cluster_for_its_leaf_node_connection_needs_no_copies() {
        assert_eq!(copies(&info(|info| info["cluster"]["name"] = "up-1".into()), NAME, 0), []);
    }

    #[test]
    fn one_copy_in_a_cluster_is_a_warning_and_no_leader_is_wrong() {
        let one = copies(&info(|info| info["cluster"]["name"] = "C1".into()), NAME, 3);
        assert!(
            one[0].seen.contains("3 servers")
                && one[0].fix.as_ref().unwrap().contains("--replicas 3")
        );
        let none = copies(
            &info(|info| {
                info["cluster"] =
                    json!({ "name": "C1", "replicas": [{ "name": "b", "offline": true }] });
                info["config"]["num_replicas"] = 3.into();
            }),
            NAME,
            3,
        );
        assert_eq!(
            none.iter().map(|found| found.verdict).collect::<Vec<_>>(),
            [Verdict::Wrong, Verdict::Warning]
        );
    }
}
