//! Who asks, and what that one may write.

use std::net::{IpAddr, Ipv4Addr};

use rustls::pki_types::{CertificateDer, ServerName};
use webpki::EndEntityCert;

use crate::base::options::Authorize;

/// How many subnets a PublicIP may have where it is shown by a certificate: a lease, and a reservation for the next start.
const MOST: usize = 2;

/// The other end of a connection.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    authorize: Authorize,
    certificate: Option<CertificateDer<'static>>,
}

impl Caller {
    pub(super) fn new(authorize: Authorize, certificate: Option<&CertificateDer<'_>>) -> Self {
        Self {
            authorize,
            // Else nobody looks at it again, and it is as large as all the rest of a connection.
            certificate: certificate
                .filter(|_| authorize == Authorize::PublicIp)
                .map(|certificate| certificate.clone().into_owned()),
        }
    }

    /// How many subnets one PublicIP may have.
    pub(super) fn most(&self) -> Option<usize> {
        match self.authorize {
            Authorize::None => None,
            Authorize::PublicIp => Some(MOST),
        }
    }

    /// Whether it may write what names this PublicIP: with `public-ip`, a node whose certificate is for that address.
    pub(super) fn may(&self, public_ip: Ipv4Addr) -> bool {
        match self.authorize {
            Authorize::None => true,
            Authorize::PublicIp => self.is_for(public_ip),
        }
    }

    fn is_for(&self, public_ip: Ipv4Addr) -> bool {
        let Some(certificate) = &self.certificate else {
            return false;
        };
        let name = ServerName::from(IpAddr::V4(public_ip));
        EndEntityCert::try_from(certificate)
            .is_ok_and(|it| it.verify_is_valid_for_subject_name(&name).is_ok())
    }
}
