// SPDX-License-Identifier: GPL-2.0
//~ E0423: a status is not made of a number
fn status() -> BlkStatus {
    BlkStatus(200) //~ bad
    BlkStatus::OK //~ good
}
