-- Ansible managed
-- The pool: which web hosts a site's requests go to. The pool checker is the only one that writes it, and nothing it
-- writes needs a reload. What it has not said (yet, or for TTL seconds) counts as up.
local balancer = require "ngx.balancer"
local cjson = require "cjson.safe"

local FILE, TTL = "/etc/nginx/trestle/pool.json", 10
-- So long is it remembered how slow a page's last answer was. After so many first tries that ended for nothing in so many
-- seconds, a site has none.
local SLOW_TTL, WASTED_MOST, WASTED_TTL = 600, 10, 10
local IN_PIECES = "in pieces"
-- So many seconds of a site's slow pages are steered in so many seconds: more would be too much for one host.
local STEERED_MOST, STEERED_TTL = 50, 10
local KNOWN = { up = true, canary = true, drained = true, down = true, outdated = true }
local REPEATABLE = { GET = true, HEAD = true }
local states, slow = ngx.shared.trestle_pool, ngx.shared.trestle_slow

local file = assert(io.open(FILE))
local sites = assert(cjson.decode(file:read("*a")))
file:close()

-- Perlbal's port of each site, on this host; the checker says whether Perlbal chooses.
local pool = { perlbal_ports = {} }

local function state(site, backend)
  return states:get(site .. "/" .. backend.host) or "up"
end

-- What no host could serve for a moment, as while the databases change their primary, waits here meanwhile. All at once
-- would be too much afterwards: each waits as long as the hold lasted, so that they go on as they came.
local function hold()
  if not states:get("held") then return end
  local came = ngx.now()
  repeat ngx.sleep(0.1) until not states:get("held")
  ngx.sleep(math.max(0, came - states:get("held since")))
end

-- The seconds of a first try: half as long again for a page that is known to be slow. None where it would be in vain: the
-- answer comes in pieces, or more and more first tries of the site end for nothing, since all hosts are busy; asking two of
-- them makes that worse.
local function patience(site)
  local took = slow:get(site .. ngx.var.uri)
  if took == IN_PIECES or (slow:get("wasted by " .. site) or 0) >= WASTED_MOST then return end
  return pool.first_try_seconds + 1.5 * (tonumber(took) or 0)
end

-- Hosts are drained in the order of the pool, and each drain waits for the slowest page: during a run a page that is
-- known to be slow goes to the host that is the last to be drained, the one that moved in this run or the nearest before.
local function last_to_go(site, up)
  local took = slow:get(site .. ngx.var.uri)
  if states:get("run/under way") ~= "up" or not took then return end
  if states:incr("steered of " .. site, tonumber(took) or 1, 0, STEERED_TTL) > STEERED_MOST then return end
  local moved, place, last = states:get("moved of " .. site), {}, #up
  for at, backend in ipairs(sites[site]) do place[backend.host] = at end
  -- One that moved may have left the inventory, or be new in it.
  local reached = place[moved or ""] or 0
  for at, backend in ipairs(up) do
    if place[backend.host] <= reached then last = at end
  end
  return last - 1
end

-- The first host has so many seconds to begin its answer, the next the usual time. What might pause later, gunicorn
-- refuses in a first try.
local function be_quick(seconds, usual_seconds)
  ngx.ctx.seconds, ngx.var.trestle_first_try = { seconds, usual_seconds }, "1"
end

-- Perlbal chooses one itself, while it has its pools from the checker and nobody stops it; where it is not there all the
-- same, the request goes past it.
local function perlbal_port(site)
  if states:get("perlbal/steered") == "up" and not states:get("perlbal/stopping") then return pool.perlbal_ports[site] end
end

local function choose_perlbal(port)
  local ctx = ngx.ctx
  local other = ctx.backends[ctx.turn % #ctx.backends + 1]
  ctx.backends, ctx.turn = { { address = "127.0.0.1", port = port }, other }, 0
end

-- Before the request is passed on: line up the backends that are in, beginning with another one each time. What may be
-- asked again is, where the first does not answer soon: it may be frozen. A canary takes its turns of that, in a location
-- of its own, where another host is asked after any failure.
function pool.choose(site, usual_seconds)
  hold()
  local up, canaries, down = {}, {}, {}
  for _, backend in ipairs(sites[site]) do
    local is = state(site, backend)
    if is == "up" then up[#up + 1] = backend
    elseif is == "canary" then canaries[#canaries + 1] = backend
    elseif is == "down" then down[#down + 1] = backend end
  end
  if #up == 0 then up, canaries = canaries, {} end
  -- It may only be too busy to answer the checker in time.
  if #up == 0 then up = down end
  if #up == 0 then return ngx.exit(ngx.HTTP_SERVICE_UNAVAILABLE) end
  local turn = states:incr("turn of " .. site, 1, 0)
  local repeatable = REPEATABLE[ngx.req.get_method()]
  if repeatable and turn % (#up + #canaries) < #canaries then return ngx.exec("@canary") end
  ngx.ctx.backends, ngx.ctx.turn, ngx.ctx.tried = up, last_to_go(site, up) or turn, 0
  local port = perlbal_port(site)
  if port then return choose_perlbal(port) end
  local seconds = repeatable and #up > 1 and patience(site)
  if seconds and seconds < usual_seconds then be_quick(seconds, usual_seconds) end
end

-- In the canaries' own location: a canary, which has so many seconds, and then one that is up and has the usual time.
function pool.choose_canary(site, seconds, usual_seconds)
  local up, canary = {}, nil
  for _, backend in ipairs(sites[site]) do
    local is = state(site, backend)
    if is == "up" then up[#up + 1] = backend
    elseif is == "canary" then canary = canary or backend end
  end
  local turn = states:incr("turn of " .. site .. " past its canary", 1, 0)
  local other = up[turn % math.max(#up, 1) + 1]
  if not (canary or other) then return ngx.exit(ngx.HTTP_SERVICE_UNAVAILABLE) end
  ngx.ctx.backends = canary and { canary, other } or { other }
  ngx.ctx.turn, ngx.ctx.tried = 0, 0
  if canary and other then be_quick(seconds, usual_seconds) end
end

-- For the first try and, where nginx may repeat the request, for the next: never the same backend twice.
function pool.connect()
  local ctx = ngx.ctx
  if ctx.tried == 0 and #ctx.backends > 1 then balancer.set_more_tries(1) end
  local backend = ctx.backends[(ctx.turn + ctx.tried) % #ctx.backends + 1]
  ctx.tried = ctx.tried + 1
  if ctx.seconds then
    assert(balancer.set_timeouts(nil, nil, ctx.seconds[ctx.tried]))
    if ctx.tried == 2 then
      ngx.var.trestle_first_try = ""
      assert(balancer.recreate_request())
    end
  end
  assert(balancer.set_current_peer(backend.address, backend.port))
end

-- After the answer: how slow the page is, and whether its first try was of use.
function pool.learn(site)
  local took, page, first = {}, site .. ngx.var.uri, ngx.ctx.seconds and ngx.ctx.seconds[1]
  for each in (ngx.var.upstream_response_time or ""):gmatch("[%d.]+") do took[#took + 1] = tonumber(each) end
  if #took == 0 then return end
  local last = took[#took]
  -- nginx says 504 of one that had no time left as well, and its timers count whole milliseconds.
  local refused = first and #took == 2 and took[1] < first - 0.01 and ngx.var.upstream_status:find("^504")
  local is = refused and IN_PIECES or last > pool.first_try_seconds and last or nil
  local known = slow:get(page)
  if known ~= IN_PIECES and (is or known) then slow:set(page, is, SLOW_TTL) end
  local wasted = refused or first and last > first
  if first and #took == 2 then slow:incr("wasted by " .. site, wasted and 1 or -1, 0, WASTED_TTL) end
end

local function view()
  local seen = {}
  for site, backends in pairs(sites) do
    seen[site] = {}
    for _, backend in ipairs(backends) do
      seen[site][backend.host] = {
        address = backend.address .. ":" .. backend.port,
        state = state(site, backend),
        checked = states:get(site .. "/" .. backend.host) ~= nil,
      }
    end
  end
  return seen
end

-- GET: the pool as it is. PUT {site: {host: state}}: what the checker found; of "perlbal", whether it is "steered", and by
-- who stops it, "stopping"; whether a "run" is "under way".
function pool.answer()
  if ngx.req.get_method() == "PUT" then
    ngx.req.read_body()
    local said = cjson.decode(ngx.req.get_body_data() or "")
    if type(said) ~= "table" then return ngx.exit(ngx.HTTP_BAD_REQUEST) end
    if (said.run or {})["under way"] == "up" and states:get("run/under way") ~= "up" then
      for site in pairs(sites) do states:delete("moved of " .. site) end
    end
    for site, hosts in pairs(said) do
      for host, found in pairs(hosts) do
        if KNOWN[found] then
          local was = states:get(site .. "/" .. host)
          if sites[site] and was and was ~= found then states:set("moved of " .. site, host) end
          states:set(site .. "/" .. host, found, TTL)
        end
      end
    end
  end
  ngx.say(cjson.encode(view()))
end

-- PUT ?seconds=: requests are held, for so long at most. DELETE: they go on.
function pool.answer_hold()
  local seconds = ngx.req.get_method() == "PUT" and tonumber(ngx.var.arg_seconds) or 0
  if seconds > 0 then
    states:set("held since", ngx.now())
    states:set("held", true, seconds)
  else states:delete("held") end
  ngx.exit(ngx.HTTP_NO_CONTENT)
end

return pool
