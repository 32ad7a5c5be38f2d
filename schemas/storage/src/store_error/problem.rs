//! What can be wrong with a store, what to do about it, and how that reads.

use gleaner_schemas::FailureKind;

/// What is wrong, as far as the store's answer or the lack of one tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreProblem {
    /// There is no such object.
    Missing,
    /// There is no such bucket or container.
    BucketMissing,
    /// The credentials are good, but not for this.
    AccessDenied,
    /// The store does not know the key.
    KeyUnknown,
    /// The secret does not belong to the key, or the request was changed on its way.
    SecretWrong,
    /// There are no credentials to be found.
    CredentialsMissing,
    /// The session's token has run out, or is not of this session.
    TokenExpired,
    /// This machine's clock differs too much from the store's.
    ClockSkew,
    /// The bucket is elsewhere.
    RegionWrong {
        /// Where, if the store tells.
        region: Option<String>,
    },
    /// The name of the store's host does not resolve.
    HostUnknown,
    /// Nothing listens at the store's address.
    Refused,
    /// The store's certificate is not signed by a known authority.
    CertificateUnknown,
    /// No answer, or no more of it, in time.
    Timeout,
    /// The connection broke.
    Disconnected,
    /// The store asks for fewer requests.
    Throttled,
    /// The store failed by itself.
    ServerError,
    /// The object is another one than the one that is expected.
    Changed,
    /// There is an object already.
    Exists,
    /// The store cannot do this.
    Unsupported,
    /// The file system denies this process a file.
    FileDenied,
    /// The disk is full, or the file system forbids it to all.
    Disk,
    /// Anything else.
    Other {
        /// Whether trying again may help.
        is_transient: bool,
    },
}

impl StoreProblem {
    /// What to do about it.
    #[must_use]
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Missing
            | Self::BucketMissing
            | Self::RegionWrong { .. }
            | Self::CertificateUnknown
            | Self::Changed
            | Self::Unsupported
            | Self::Disk
            | Self::Other {
                is_transient: false,
            } => FailureKind::Permanent,
            Self::AccessDenied
            | Self::KeyUnknown
            | Self::SecretWrong
            | Self::CredentialsMissing
            | Self::FileDenied => FailureKind::Access,
            // A token can be renewed and a clock be set while a run waits.
            Self::TokenExpired
            | Self::ClockSkew
            | Self::HostUnknown
            | Self::Refused
            | Self::Timeout
            | Self::Disconnected
            | Self::Throttled
            | Self::ServerError
            | Self::Exists
            | Self::Other { is_transient: true } => FailureKind::Transient,
        }
    }

    /// What is wrong and what to do, without a full stop. `None` if only the store's words tell.
    pub(super) fn sentence(&self) -> Option<String> {
        let sentence = match self {
            Self::BucketMissing => {
                "the bucket does not exist; create it, or correct its name in the URI"
            }
            Self::AccessDenied => {
                "the store denies access; allow these credentials to list, read, write and delete \
                 there"
            }
            Self::KeyUnknown => {
                "the store does not know the access key; check the key \
                 (AWS_ACCESS_KEY_ID for S3) and the endpoint"
            }
            Self::SecretWrong => {
                "the store does not accept the signature; check the secret \
                 (AWS_SECRET_ACCESS_KEY for S3, AZURE_STORAGE_ACCOUNT_KEY for Azure)"
            }
            Self::CredentialsMissing => {
                "there are no credentials for the store; set them in the environment \
                 (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS, \
                 AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY); profiles of other \
                 tools are not read"
            }
            Self::TokenExpired => {
                "the session token has expired or is not valid; get new credentials, set all of \
                 them (AWS_SESSION_TOKEN for S3), and run the job again"
            }
            Self::ClockSkew => {
                "the clock of this machine differs too much from the store's; set it, and run the \
                 job again"
            }
            Self::RegionWrong {
                region: Some(region),
            } => {
                return Some(format!(
                    "the bucket is in the region {region}; set AWS_REGION={region}"
                ));
            }
            Self::RegionWrong { region: None } => {
                "the bucket is in another region, or behind another endpoint; set AWS_REGION and \
                 AWS_ENDPOINT_URL"
            }
            Self::HostUnknown => {
                "the name of the store's host cannot be resolved; check the endpoint \
                 (AWS_ENDPOINT_URL for S3) and the network"
            }
            Self::Refused => {
                "nothing listens at the store's address; check the endpoint (AWS_ENDPOINT_URL for \
                 S3), and whether the store is up"
            }
            Self::CertificateUnknown => {
                "the store's certificate cannot be trusted; name the PEM file of its authority in \
                 SSL_CERT_FILE (AWS_CA_BUNDLE for S3), or correct the host name"
            }
            Self::Timeout => "the store did not answer in time",
            Self::Disconnected => "the connection to the store broke",
            Self::Throttled => "the store asks for fewer requests",
            Self::ServerError => "the store failed by itself",
            Self::Missing
            | Self::Changed
            | Self::Exists
            | Self::Unsupported
            | Self::FileDenied
            | Self::Disk
            | Self::Other { .. } => return None,
        };
        Some(sentence.to_owned())
    }
}
