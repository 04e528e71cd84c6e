// SPDX-License-Identifier: GPL-2.0
//~ E0080: a filter that takes bios says so
pub fn submit_bio<'cb>(bio: IncomingBio<'cb, Other>) -> Verdict<'cb> {
    bio.defer().unwrap_or_else(IncomingBio::pass) //~ bad
    bio.pass() //~ good
}
