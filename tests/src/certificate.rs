//! Certificates for etcd that no authority is behind, made by openssl.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::netns::run;

/// Certificate and key of one server, as PEM files.
#[derive(Debug)]
pub struct Certificate {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
}

/// What is in a certificate.
#[derive(Debug, Clone, Copy)]
pub struct Contents<'a> {
    /// Lines of an extension section of openssl's configuration. Without any it is one of X.509 version 1.
    pub extensions: &'a str,
    /// Over since 2020.
    pub expired: bool,
}

impl Contents<'_> {
    /// Makes it in `folder`, signed by its own key.
    pub fn self_signed(self, folder: &Path, name: &str) -> Certificate {
        self.make(folder, name, None)
    }

    /// The same, signed by the key of `issuer`.
    pub fn signed_by(self, issuer: &Certificate, folder: &Path, name: &str) -> Certificate {
        self.make(folder, name, Some(issuer))
    }

    fn make(self, folder: &Path, name: &str, issuer: Option<&Certificate>) -> Certificate {
        let at = |ending: &str| folder.join(format!("{name}.{ending}"));
        let text = |path: &Path| path.display().to_string();
        let config = format!(
            "[req]\ndistinguished_name=it\nprompt=no\n[it]\nCN={name}\n[extensions]\n{}\n\
             [ca]\ndefault_ca=authority\n[authority]\ndatabase={}\nrand_serial=yes\nnew_certs_dir={}\n\
             default_md=sha256\npolicy=any\n[any]\ncommonName=supplied\n",
            self.extensions,
            text(&at("index")),
            text(folder),
        );
        std::fs::create_dir_all(folder).expect("create the folder");
        std::fs::write(at("conf"), config).expect("write the configuration");
        std::fs::write(at("index"), "").expect("write the index");
        let (config, csr) = (text(&at("conf")), text(&at("csr")));
        let made = Certificate {
            cert_file: at("pem"),
            key_file: at("key"),
        };
        let (cert, key) = (text(&made.cert_file), text(&made.key_file));
        let new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
        run(Command::new("openssl")
            .arg("req")
            .args(new_key)
            .args(["-nodes", "-config", &config, "-keyout", &key, "-out", &csr]));
        let mut command = Command::new("openssl");
        command.args(["ca", "-batch", "-notext", "-config", &config]);
        if !self.extensions.is_empty() {
            command.args(["-extensions", "extensions"]);
        }
        command.args(["-in", &csr, "-out", &cert]);
        let end = if self.expired {
            "200102000000Z"
        } else {
            "20991231000000Z"
        };
        command.args(["-startdate", "200101000000Z", "-enddate", end]);
        match issuer {
            Some(issuer) => command
                .arg("-cert")
                .arg(&issuer.cert_file)
                .arg("-keyfile")
                .arg(&issuer.key_file),
            None => command.args(["-selfsign", "-keyfile", &key]),
        };
        run(&mut command);
        made
    }
}
