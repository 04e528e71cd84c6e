// SPDX-License-Identifier: GPL-2.0
//~ E0308: a result is no status
fn submit_bio<'cb>(bio: Incoming<'cb>) -> Verdict<'cb> {
    bio.end(Err(EIO)) //~ bad
    bio.end(BlkStatus::IOERR) //~ good
}
