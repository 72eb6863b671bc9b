//! What deploy/Dockerfile says. It is the one description of the image: what it does that is not known here is an error.

use anyhow::{Context as _, Result, bail, ensure};

/// Around the names of the packages.
const INSTALL: [&str; 3] = [
    "apt-get update",
    "apt-get install --yes --no-install-recommends ",
    "rm -rf /var/lib/apt/lists/*",
];

/// The image, as far as an image can differ.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Recipe {
    /// Of Debian: `12`.
    pub(super) release: String,
    pub(super) packages: Vec<String>,
    /// From where in the repository, to where in the image.
    pub(super) copies: Vec<(String, String)>,
    pub(super) entrypoint: Vec<String>,
}

impl Recipe {
    pub(super) fn parse(text: &str) -> Result<Self> {
        let (mut release, mut packages, mut copies, mut entrypoint) =
            (None, Vec::new(), Vec::new(), None);
        let text: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let text = text.join("\n").replace("\\\n", " ");
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (instruction, rest) = line.split_once(' ').unwrap_or((line, ""));
            let known = match instruction {
                "FROM" => {
                    release = rest
                        .strip_prefix("debian:")
                        .and_then(|tag| tag.strip_suffix("-slim"))
                        .map(str::to_owned);
                    release.is_some()
                }
                "RUN" => installed(rest)
                    .map(|names| packages.extend(names))
                    .is_some(),
                "COPY" => match rest.split_whitespace().collect::<Vec<_>>()[..] {
                    [from, to] if to.starts_with('/') && !to.ends_with('/') => {
                        copies.push((from.to_owned(), to.to_owned()));
                        true
                    }
                    _ => false,
                },
                "ENTRYPOINT" => {
                    entrypoint = serde_json::from_str(rest).ok();
                    entrypoint.is_some()
                }
                _ => false,
            };
            if !known {
                bail!(
                    "{line:?} is not known here: teach it to xtask/src/image/dockerfile.rs, or leave it out"
                );
            }
        }
        ensure!(!packages.is_empty(), "no RUN installs a package");
        ensure!(!copies.is_empty(), "no COPY brings the agent");
        Ok(Self {
            release: release.context("there is no FROM")?,
            packages,
            copies,
            entrypoint: entrypoint.context("there is no ENTRYPOINT")?,
        })
    }
}

/// The packages, if that is all the command does.
fn installed(command: &str) -> Option<Vec<String>> {
    let steps: Vec<&str> = command.split("&&").map(str::trim).collect();
    let [update, install, clean] = steps[..] else {
        return None;
    };
    let names = install.strip_prefix(INSTALL[1])?.split_whitespace();
    let names: Vec<String> = names.map(str::to_owned).collect();
    let only_names = !names.iter().any(|name| name.starts_with('-'));
    (update == INSTALL[0] && clean == INSTALL[2] && only_names).then_some(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIPPED: &str = include_str!("../../../deploy/Dockerfile");

    #[test]
    fn the_shipped_one_is_understood_as_a_whole() {
        let recipe = Recipe::parse(SHIPPED).unwrap();
        let copy = |from: &str, to: &str| (from.to_owned(), to.to_owned());
        assert_eq!(
            recipe,
            Recipe {
                release: "12".to_owned(),
                packages: ["ca-certificates", "iptables", "nftables"]
                    .map(str::to_owned)
                    .into(),
                copies: vec![
                    copy(
                        "target/release/flannel-agent",
                        "/usr/local/bin/flannel-agent"
                    ),
                    copy("target/cni/flannel", "/flannel"),
                ],
                entrypoint: vec!["/usr/local/bin/flannel-agent".to_owned()],
            }
        );
    }

    /// A line that one of the two ways to the image leaves out makes two images.
    #[test]
    fn what_is_not_known_is_refused_by_its_line() {
        let more = [
            "USER 1000",
            "LABEL a=b",
            "COPY --chmod=700 a /b",
            "COPY a /usr/bin/",
            "RUN echo",
            "RUN apt-get update && apt-get install --yes --no-install-recommends -t sid a && rm -rf /var/lib/apt/lists/*",
            "ENTRYPOINT /flannel",
            "FROM alpine",
        ];
        for line in more {
            let error = Recipe::parse(&format!("{SHIPPED}\n{line}\n")).unwrap_err();
            assert!(format!("{error:#}").contains(line), "{line}: {error:#}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        for instruction in ["FROM", "RUN", "COPY", "ENTRYPOINT"] {
            let joined = SHIPPED.replace("\\\n", "");
            let lines = joined.lines().filter(|line| !line.starts_with(instruction));
            let rest: Vec<&str> = lines.collect();
            let error = Recipe::parse(&rest.join("\n")).unwrap_err();
            assert!(error.to_string().contains(instruction), "{error}");
        }
    }
}
