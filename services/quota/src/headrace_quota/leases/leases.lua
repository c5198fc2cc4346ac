#!lua name=headrace_leases
--[[
Rates and concurrency of tenants. One call of `headrace_lease` takes one report of a gateway and answers it, atomically.
All times are milliseconds of this server's clock, so that those of gateways and quota processes don't matter.

KEYS[1]  what is known of gateways (hash)
KEYS[2…] one for each limit of the report (hash)
ARGV[1]  the report as JSON; see valkey_leases.py

What makes the sums right:
- Of every limit each gateway has one holding here, and never more permits than that: a report tells what is left, the
  holding becomes that and what is granted on top, and it lapses `TTL` after, which is later than at the gateway.
- A bucket holds no more than its burst less all holdings. So level and holdings together never exceed the burst, the
  only thing that adds to them is the rate, and whatever gateways do with their permits, in any t they use no more than
  rate * t + burst.
- A gateway that may be out of reach lives on its share of the rate. Here that part is then not given out (`carve`).
]]

local TTL = 2000
-- A gateway goes by its share 6 s after it sent the last report that it had an answer to; an answer is dropped after 2 s.
local KNOWN_FOR = 3000
-- For so long after this server lost its memory nobody's concurrency grows: every gateway has said by then what it has.
local RELEARN_FOR = 8000
local SHORT_FOR = 1000
local RETRY_MIN, RETRY_MAX = 20, 3600000
local SLOTS = 100

local function number(value)
    return tonumber(value) or 0
end

local function text(value)
    return string.format('%.17g', value)
end

local function read(key)
    local flat = redis.call('HGETALL', key)
    local fields = {}
    for i = 1, #flat, 2 do
        fields[flat[i]] = flat[i + 1]
    end
    return fields, #flat == 0
end

local function now_ms()
    local time = redis.call('TIME')
    return number(time[1]) * 1000 + number(time[2]) / 1000
end

-- A gateway's entry: number and time of its last report, when it last was known to have a grant, its share.
local function unpack_gateway(entry)
    local sequence, sent, known, share = string.match(entry, '^(%S+) (%S+) (%S+) (%S+)$')
    return { sequence = number(sequence), sent = number(sent), known = number(known), share = number(share) }
end

-- A gateway's holding of a limit: permits, when they lapse, until when it counts as one that had too few.
local function unpack_holding(entry)
    local permits, lapse, short = string.match(entry, '^(%S+) (%S+) (%S+)$')
    return { permits = number(permits), lapse = number(lapse), short = number(short) }
end

local function pack(...)
    local parts = { ... }
    for i = 1, #parts do
        parts[i] = text(parts[i])
    end
    return table.concat(parts, ' ')
end

-- Notes the report; returns what of it and of all gateways matters for limits, or nil for a report out of order.
local function meet(key, report)
    local fields = read(key)
    local now = math.max(report.now_ms or now_ms(), number(fields.clock))
    local born = fields.born and number(fields.born) or now
    local lost = fields.lost == '1'
    local own = fields['g:' .. report.gateway]
    own = own and unpack_gateway(own)
    if own and report.sequence <= own.sequence then
        return nil
    end
    if not own and report.answered > 0 and now - born < RELEARN_FOR then
        lost = true
    end
    local known = own and own.known or 0
    if report.share == 0 then
        known = now
    elseif own and report.answered == own.sequence then
        known = own.sent
    end
    local gone = { 'g:' .. report.gateway }
    for _, id in ipairs(report.replaces) do
        gone[#gone + 1] = 'g:' .. id
    end
    local living = {}
    local reached = 0
    for field, entry in pairs(fields) do
        if string.sub(field, 1, 2) == 'g:' and field ~= gone[1] then
            local other = unpack_gateway(entry)
            local replaced = false
            for i = 2, #gone do
                replaced = replaced or gone[i] == field
            end
            if now - other.sent > 1.5 * report.expire_ms or replaced then
                gone[#gone + 1] = field
            else
                living[string.sub(field, 3)] = true
                if now - other.known < KNOWN_FOR then
                    reached = reached + other.share
                end
            end
        end
    end
    redis.call('HDEL', key, unpack(gone))
    if not report.leaving or report.busy then
        living[report.gateway] = true
        if now - known < KNOWN_FOR then
            reached = reached + report.counted
        end
        redis.call('HSET', key, gone[1], pack(report.sequence, now, known, report.counted))
    end
    local carve = math.max(0, math.min(1, report.total - reached))
    if carve < 1e-6 then
        carve = 0
    end
    -- Buckets that were last filled before the latest time of carving are filled as if it had lasted since.
    local carved_at, carved = number(fields.carved_at), number(fields.carved)
    if carve > 0 then
        carved = now - carved_at < RETRY_MAX and math.max(carved, carve) or carve
        carved_at = now
    end
    redis.call(
        'HSET', key, 'clock', text(now), 'born', text(born), 'lost', lost and '1' or '0',
        'carved_at', text(carved_at), 'carved', text(carved)
    )
    return {
        now = now, born = born, lost = lost, living = living, carve = carve, carved_at = carved_at, carved = carved,
    }
end

-- Holdings of a limit: the gateway's own, the sum of the others', and how many of those had too few lately.
local function holdings(fields, gateway, mesh)
    local own, others, short = nil, 0, 0
    for field, entry in pairs(fields) do
        if string.sub(field, 1, 2) == 'g:' then
            local holding = unpack_holding(entry)
            if string.sub(field, 3) == gateway then
                own = holding
            else
                if holding.lapse > mesh.now then
                    others = others + holding.permits
                end
                if holding.short > mesh.now then
                    short = short + 1
                end
            end
        end
    end
    return own or { permits = 0, lapse = 0, short = 0 }, others, short
end

-- How much of what is there one report gets: what calls wait for, and half of the rest for calls to come; where other
-- gateways had too few as well, an equal part.
local function portion(limit, available, short)
    local waiting = math.min(limit.waiting, available)
    local most = waiting + math.floor((available - waiting) / 2)
    if short > 0 then
        most = math.max(math.floor(available / (short + 1)), math.min(waiting, 1))
    end
    return math.max(0, math.min(limit.wanted, most))
end

local function keep(key, fields, gateway, holding, mesh, life)
    redis.call('HSET', key, 'g:' .. gateway, pack(holding.permits, holding.lapse, holding.short))
    for field, entry in pairs(fields) do
        if string.sub(field, 1, 2) == 'g:' and string.sub(field, 3) ~= gateway then
            local other = unpack_holding(entry)
            if other.lapse <= mesh.now and other.short <= mesh.now then
                redis.call('HDEL', key, field)
            end
        end
    end
    redis.call('PEXPIRE', key, math.ceil(life))
end

local function clamp(value, least, most)
    return math.max(least, math.min(most, math.ceil(value)))
end

local function gcra(key, limit, gateway, mesh)
    local fields, missing = read(key)
    local rate = limit.amount / limit.period_ms
    local own, others, short = holdings(fields, gateway, mesh)
    local held_here = own.lapse > mesh.now and own.permits or 0
    if missing and mesh.lost then
        -- Granted by a server that has forgotten it.
        held_here = limit.held
    end
    local at = fields.at and number(fields.at) or mesh.now
    local carve = mesh.carve
    if at < mesh.carved_at then
        carve = math.max(carve, mesh.carved)
    end
    local burst = limit.burst * (1 - carve)
    local level = number(fields.level)
    if missing then
        level = mesh.lost and rate * (mesh.now - mesh.born) or limit.burst
    end
    level = math.min(level + rate * (1 - carve) * (mesh.now - at), math.max(0, burst - others - held_here))
    local held = math.min(limit.held, held_here, math.max(0, math.floor(burst - others)))
    local returned = limit.refunds and limit.returned or math.min(limit.returned, math.max(0, held_here - held))
    level = math.min(level + returned, math.max(0, burst - others - held))
    local granted = portion(limit, math.floor(level), short)
    level = level - granted
    local retry = 0
    if granted < limit.waiting then
        local unit = math.max(1, math.min(limit.waiting - granted, limit.burst / 8))
        local least = math.max(RETRY_MIN, math.min(100, limit.burst / rate / 16))
        retry = clamp((unit - level) / (rate * math.max(0.01, 1 - mesh.carve)), least, RETRY_MAX)
    end
    redis.call('HSET', key, 'level', text(level), 'at', text(mesh.now))
    local holding = { permits = held + granted, lapse = mesh.now + TTL, short = retry > 0 and mesh.now + SHORT_FOR or 0 }
    keep(key, fields, gateway, holding, mesh, limit.burst / rate + 60000)
    return held + granted, TTL, retry, math.max(0, math.floor(limit.burst - level))
end

-- Uses are counted in slots of a hundredth of the window, by the end of the slot in which they are learned of.
local function sliding(key, limit, gateway, mesh)
    local fields, missing = read(key)
    local window = limit.period_ms
    local width = window / SLOTS
    local used = {}
    local function use(at, permits)
        if permits > 0 then
            local slot = math.floor(at / width)
            used[slot] = (used[slot] or 0) + permits
        end
    end
    for field, value in pairs(fields) do
        if string.sub(field, 1, 2) == 's:' then
            used[number(string.sub(field, 3))] = number(value)
        end
    end
    if missing and mesh.lost and window <= 60000 then
        use(mesh.born, limit.amount)
    end
    for field, entry in pairs(fields) do
        if string.sub(field, 1, 2) == 'g:' then
            local holding = unpack_holding(entry)
            if holding.lapse <= mesh.now and holding.permits > 0 then
                -- A gateway that was not heard of again may have used all of it.
                use(holding.lapse, holding.permits)
                fields[field] = pack(0, 0, holding.short)
                redis.call('HSET', key, field, fields[field])
            end
        end
    end
    local own, others, short = holdings(fields, gateway, mesh)
    local held = math.min(limit.held, own.permits)
    local returned = math.min(limit.returned, own.permits - held)
    use(mesh.now, own.permits - held - returned)
    local total, oldest = 0, nil
    for slot, permits in pairs(used) do
        local ends = (slot + 1) * width + window
        if ends <= mesh.now then
            redis.call('HDEL', key, 's:' .. text(slot))
        else
            total = total + permits
            oldest = math.min(oldest or ends, ends)
            redis.call('HSET', key, 's:' .. text(slot), text(permits))
        end
    end
    local carve = mesh.carve
    if mesh.now - mesh.carved_at <= window + TTL then
        carve = math.max(carve, mesh.carved)
    end
    local available = math.max(0, math.floor(limit.amount * (1 - carve) - total - others - held))
    local granted = portion(limit, available, short)
    local retry = 0
    if granted < limit.waiting then
        retry = clamp((oldest or mesh.now) - mesh.now, RETRY_MIN, RETRY_MAX)
    end
    local holding = { permits = held + granted, lapse = mesh.now + TTL, short = retry > 0 and mesh.now + SHORT_FOR or 0 }
    keep(key, fields, gateway, holding, mesh, 2 * window + 60000)
    return held + granted, TTL, retry, total + others + held + granted
end

-- Held until the gateway says otherwise or is forgotten, which is later than it stops using them by itself.
local function concurrency(key, limit, gateway, mesh, expire_ms)
    local fields = read(key)
    for field in pairs(fields) do
        if string.sub(field, 1, 2) == 'g:' and not mesh.living[string.sub(field, 3)] then
            redis.call('HDEL', key, field, 'u:' .. string.sub(field, 3))
            fields[field] = nil
        end
    end
    local _, others, short = holdings(fields, gateway, mesh)
    local available = math.max(0, limit.amount - others)
    local needed = limit.in_use + limit.waiting
    local granted = math.min(limit.wanted, available, math.max(needed, limit.in_use) + math.floor(math.max(0, available - needed) / 2))
    if short > 0 then
        granted = math.min(granted, math.max(limit.in_use, math.floor(limit.amount / (short + 1)), 1))
    end
    if mesh.lost and mesh.now - mesh.born < RELEARN_FOR then
        granted = math.min(granted, math.max(limit.held, limit.in_use))
    end
    granted = math.max(0, granted)
    local retry = granted < needed and limit.waiting > 0 and 100 or 0
    -- Until the answer arrives the gateway goes by what it reported.
    local counted = math.max(granted, limit.held, limit.in_use)
    local holding = { permits = counted, lapse = mesh.now + 1e15, short = retry > 0 and mesh.now + SHORT_FOR or 0 }
    if counted == 0 and retry == 0 then
        redis.call('HDEL', key, 'g:' .. gateway, 'u:' .. gateway)
    else
        -- What is in use is for people to see; decisions go by what is held.
        redis.call(
            'HSET', key, 'g:' .. gateway, pack(holding.permits, holding.lapse, holding.short),
            'u:' .. gateway, text(limit.in_use)
        )
        redis.call('PEXPIRE', key, math.ceil(2 * expire_ms + 60000))
    end
    return granted, expire_ms, retry, others + counted
end

redis.register_function('headrace_lease', function(keys, args)
    local report = cjson.decode(args[1])
    local mesh = meet(keys[1], report)
    if not mesh then
        return { 0 }
    end
    local answer = { 1, math.floor(mesh.carve * 1e6) }
    for i, limit in ipairs(report.limits) do
        local granted, ttl, retry, used
        if limit.kind == 'concurrency' then
            granted, ttl, retry, used = concurrency(keys[i + 1], limit, report.gateway, mesh, report.expire_ms)
        elseif limit.kind == 'sliding' then
            granted, ttl, retry, used = sliding(keys[i + 1], limit, report.gateway, mesh)
        else
            granted, ttl, retry, used = gcra(keys[i + 1], limit, report.gateway, mesh)
        end
        answer[#answer + 1] = granted
        answer[#answer + 1] = ttl
        answer[#answer + 1] = retry
        answer[#answer + 1] = used
    end
    return answer
end)
