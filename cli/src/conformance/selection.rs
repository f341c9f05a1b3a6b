//! Which cases to run.

use regex::Regex;
use serde::Serialize;

use super::case::{Case, Profile};
use super::cases;
use super::error::{Error, Result};

/// Cases by name and profile.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Only cases whose name matches.
    pub focus: Option<Regex>,
    /// No cases whose name matches.
    pub skip: Option<Regex>,
    /// Only the cases of a profile.
    pub profile: Option<Profile>,
}

impl Selection {
    fn has(&self, case: &Case) -> bool {
        self.focus
            .as_ref()
            .is_none_or(|focus| focus.is_match(case.name))
            && !self
                .skip
                .as_ref()
                .is_some_and(|skip| skip.is_match(case.name))
            && self.profile.is_none_or(|profile| case.is_in(profile))
    }

    /// The profile, when all of its cases are selected: only then is there a claim to make.
    pub(super) fn whole_profile(&self) -> Option<Profile> {
        let whole = self.focus.is_none() && self.skip.is_none();
        self.profile.filter(|_| whole)
    }

    /// The cases, in the order of the table.
    pub(super) fn cases(&self) -> Result<Vec<Case>> {
        let mut cases = cases::all();
        cases.retain(|case| self.has(case));
        if cases.is_empty() {
            return Err(Error::NoCase);
        }
        Ok(cases)
    }
}

/// A case as it is listed.
#[derive(Debug, Serialize)]
pub struct Listed {
    pub name: &'static str,
    pub shows: &'static str,
    pub documentation: String,
    /// Stable sets of cases that it is in.
    pub profiles: Vec<&'static str>,
}

/// The cases of a selection.
pub fn list(selection: &Selection) -> Result<Vec<Listed>> {
    let cases = selection.cases()?;
    Ok(cases
        .iter()
        .map(|case| Listed {
            name: case.name,
            shows: case.shows,
            documentation: documentation(case),
            profiles: [Profile::MixedPodV1]
                .into_iter()
                .filter(|profile| case.is_in(*profile))
                .map(Profile::as_str)
                .collect(),
        })
        .collect())
}

/// Address of the page that documents a case's behaviour.
pub(super) fn documentation(case: &Case) -> String {
    format!("https://kubernetes.io/docs/{}", case.documentation)
}
