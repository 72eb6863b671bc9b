package v20170312
