//! The settings themselves.

use super::{Finding, Found, facts::Facts};

/// Mistakes, what nobody reads, and what is said in vain.
pub(super) fn settings(facts: &Facts) -> Found {
    let settings = &facts.settings;
    let mut found: Vec<Finding> = settings
        .mistakes
        .0
        .iter()
        .map(|mistake| {
            let seen = format!("{} ({}): {}", mistake.key, mistake.origin, mistake.problem);
            Finding::wrong(seen, format!("accepted: {}", mistake.accepted))
        })
        .collect();
    if let Some(error) = &settings.error {
        found.push(Finding::wrong(
            error.clone(),
            "correct it, or name another context with --context",
        ));
    }
    for overruled in &settings.overruled {
        let fix =
            format!("unset the variable if {} is meant, or change the file", overruled.instead_of);
        found.push(Finding::warning(overruled.to_string(), fix));
    }
    let Some(config) = &settings.config else { return Ok(found) };
    for warning in &config.warnings {
        found.push(Finding::warning(
            warning.clone(),
            "correct it or take it out (`host config show --origin` lists all there are)",
        ));
    }
    if !found.is_empty() {
        return Ok(found);
    }
    found.push(match (&settings.context, &settings.file) {
        (Some(context), _) => Finding::ok(format!("lattice {}, by the context {}", config.lattice, context.display())),
        (None, Some(file)) => Finding::ok(format!("lattice {}, by {}", config.lattice, file.display())),
        (None, None) => Finding::note(format!(
            "lattice {}; there is no host_config.json in this directory and no context, so flags, environment and defaults count",
            config.lattice
        )),
    });
    Ok(found)
}
